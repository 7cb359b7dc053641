"""Distributions over targets behind Keras' losses.

K-FAC needs the Fisher matrix of the model's own predictions. A loss that is a negative
log-likelihood defines them: the outputs of a model trained by squared error are means
of Gaussians, and the outputs of a model trained by cross-entropy are probabilities.
Keras' losses are *means* over an example's positions; so a log-likelihood of K terms is
scaled by 1/√K, and its Fisher matrix by 1/K.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

WEIGHTED_MEAN = "mean_with_sample_weight"
MEANS = ("sum_over_batch_size", "mean", WEIGHTED_MEAN)
"""Reductions of Keras that are means over the batch."""


class Likelihood(abc.ABC):
    """A distribution over an example's targets, given the outputs of the model.

    Computes in single precision if outputs are in half, as Keras' losses do.
    """

    def sampled_log_likelihood(self, outputs: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """Returns log-likelihoods of targets sampled from the model.

        The second moment of their gradients is the Fisher matrix. Their values are not
        used.

        Args:
          outputs: `[N, ...]`.
          key: `[2]`, random.

        Returns:
          `[N]`.
        """
        return self._log_likelihood(_single(outputs), key)

    def fisher_product(
        self, outputs: tf.Tensor, left: tf.Tensor, right: tf.Tensor, key: tf.Tensor
    ) -> tf.Tensor:
        """Returns uᵀF v with the Fisher matrix F of the outputs themselves.

        Args:
          outputs: `[N, ...]`.
          left: u, of the outputs' shape.
          right: v, of the outputs' shape.
          key: `[2]`, random; used by distributions that must be sampled.

        Returns:
          `[N]`.
        """
        return self._product(_single(outputs), _single(left), _single(right), key)

    @abc.abstractmethod
    def _log_likelihood(self, outputs: tf.Tensor, key: tf.Tensor) -> tf.Tensor: ...

    @abc.abstractmethod
    def _product(
        self, outputs: tf.Tensor, left: tf.Tensor, right: tf.Tensor, key: tf.Tensor
    ) -> tf.Tensor: ...


class Gaussian(Likelihood):
    """Likelihood of mean squared error: the outputs are means.

    The mean over K elements of (y − ŷ)² is, but for a constant, minus the
    log-likelihood of a variance of K/2.
    """

    def _log_likelihood(self, outputs: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        noise = tf.random.stateless_normal(tf.shape(outputs), key, dtype=outputs.dtype)
        target = tf.stop_gradient(outputs) + noise
        scale = tf.sqrt(2.0 / _terms(outputs))
        return -0.5 * scale * _sum(tf.square(target - outputs))

    def _product(
        self, outputs: tf.Tensor, left: tf.Tensor, right: tf.Tensor, key: tf.Tensor
    ) -> tf.Tensor:
        """Returns 2 uᵀv / K."""
        return 2.0 / _terms(outputs) * _sum(left * right)


class Bernoulli(Likelihood):
    """Likelihood of binary cross-entropy: outputs are probabilities of ones, or logits.

    Args:
      from_logits: Whether the outputs are logits.
    """

    def __init__(self, from_logits: bool) -> None:
        self._from_logits = from_logits

    def _logits(self, outputs: tf.Tensor) -> tf.Tensor:
        if self._from_logits:
            return outputs
        probability = _clipped(outputs)
        return tf.math.log(probability) - tf.math.log1p(-probability)

    def _log_likelihood(self, outputs: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        logits = self._logits(outputs)
        uniform = tf.random.stateless_uniform(tf.shape(logits), key, dtype=logits.dtype)
        target = tf.cast(uniform < tf.sigmoid(logits), logits.dtype)
        terms = -tf.nn.sigmoid_cross_entropy_with_logits(target, logits)
        return _sum(terms) / tf.sqrt(_terms(outputs))

    def _product(
        self, outputs: tf.Tensor, left: tf.Tensor, right: tf.Tensor, key: tf.Tensor
    ) -> tf.Tensor:
        """Returns Σ p(1 − p) u v / K of logits, Σ u v / (p(1 − p)) / K otherwise."""
        if self._from_logits:
            probability = tf.sigmoid(outputs)
            weight = probability * (1.0 - probability)
        else:
            probability = _clipped(outputs)
            weight = 1.0 / (probability * (1.0 - probability))
        return _sum(weight * (left * right)) / _terms(outputs)


class Categorical(Likelihood):
    """Likelihood of cross-entropy: probabilities along the last axis, or logits.

    Args:
      from_logits: Whether the outputs are logits.
    """

    def __init__(self, from_logits: bool) -> None:
        self._from_logits = from_logits

    def _log_probabilities(self, outputs: tf.Tensor) -> tf.Tensor:
        if self._from_logits:
            return tf.nn.log_softmax(outputs)
        # As Keras' loss: what is given need not add up to one.
        total = tf.reduce_sum(outputs, axis=-1, keepdims=True)
        return tf.math.log(_clipped(outputs / total))

    def _log_likelihood(self, outputs: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        log_probabilities = self._log_probabilities(outputs)
        classes = outputs.shape[-1]
        rows = tf.reshape(tf.stop_gradient(log_probabilities), [-1, classes])
        drawn = tf.random.stateless_categorical(rows, 1, key)
        drawn = tf.reshape(drawn, tf.shape(outputs)[:-1])
        target = tf.one_hot(drawn, classes, dtype=outputs.dtype)
        terms = tf.reduce_sum(target * log_probabilities, axis=-1)
        return _sum(terms) / tf.sqrt(_terms(terms))

    def _product(
        self, outputs: tf.Tensor, left: tf.Tensor, right: tf.Tensor, key: tf.Tensor
    ) -> tf.Tensor:
        """Returns Σ_t (Σ p u v − (Σ p u)(Σ p v)) / K for logits at K positions t."""
        if not self._from_logits:
            # The differential of log p = log(ŷ / Σŷ) is u/ŷ − Σu/Σŷ.
            probability = _clipped(
                outputs / tf.reduce_sum(outputs, axis=-1, keepdims=True)
            )
            total = tf.reduce_sum(outputs, axis=-1, keepdims=True)
            left = left / (probability * total)
            right = right / (probability * total)
        else:
            probability = tf.nn.softmax(outputs)

        def mean(values: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(probability * values, axis=-1)

        terms = mean(left * right) - mean(left) * mean(right)
        return _sum(terms) / _terms(terms)


class Sampled(Likelihood):
    """Likelihood of any distribution; see `NegativeLogLikelihood`.

    Args:
      distribution: Function of the outputs that returns a distribution.
    """

    def __init__(self, distribution: Callable[[tf.Tensor], Any]) -> None:
        self._distribution = distribution

    def _log_likelihood(self, outputs: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        distribution = self._distribution(outputs)
        target = tf.stop_gradient(distribution.sample(seed=key))
        return _sum(distribution.log_prob(target))

    def _product(
        self, outputs: tf.Tensor, left: tf.Tensor, right: tf.Tensor, key: tf.Tensor
    ) -> tf.Tensor:
        """Returns (uᵀs)(vᵀs) with s = ∇ log p of one sampled target: unbiased."""
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            log_likelihood = self._log_likelihood(outputs, key)
        score = tape.gradient(log_likelihood, outputs)
        return _sum(left * score) * _sum(right * score)


@keras.saving.register_keras_serializable(package="acktr_tf")
class NegativeLogLikelihood(keras.losses.Loss):
    """Loss −log p(target | outputs) of any distribution.

        loss = NegativeLogLikelihood(lambda outputs: tfd.Poisson(log_rate=outputs))

    Args:
      distribution: A function from a model's outputs `[N, ...]` to a distribution over
        targets with `log_prob(targets)`, `[N, ...]`, and `sample(seed=[2])`, as those
        of TensorFlow Probability have. To save the model it has to be registered with
        `keras.saving.register_keras_serializable`.
      reduction: Reduction over the batch: "mean", or another of Keras' means.
      name: Name of the loss.
      **kwargs: Arguments of `keras.losses.Loss`.
    """

    def __init__(
        self,
        distribution: Callable[[tf.Tensor], Any],
        reduction: str = "sum_over_batch_size",
        name: str = "negative_log_likelihood",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, reduction=reduction, **kwargs)
        self.distribution = distribution

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Returns −log p of the targets, `[N]`, summed over the elements of an example.

        Args:
          y_true: Targets, of the shape of the distribution's samples; a last axis of
            one may be missing or added.
          y_pred: The model's outputs `[N, ...]`.

        Raises:
          ValueError: Targets have another shape than the distribution's samples.
        """
        distribution = self.distribution(y_pred)
        return -_sum(distribution.log_prob(_as_sample(y_true, distribution)))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        function = keras.saving.serialize_keras_object(self.distribution)
        return {**super().get_config(), "distribution": function}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "NegativeLogLikelihood":
        """Makes a loss from what `get_config` returned.

        Args:
          config: Arguments of the constructor.
        """
        function = keras.saving.deserialize_keras_object(config["distribution"])
        return cls(**{**config, "distribution": function})


def _as_sample(target: tf.Tensor, distribution: Any) -> tf.Tensor:
    """Returns the target with the last axis of one that the distribution has or lacks.

    Otherwise targets `[N]` of a distribution `[N, 1]` would be broadcast to `[N, N]`.
    """
    batch = getattr(distribution, "batch_shape", None)
    event = getattr(distribution, "event_shape", None)
    if not isinstance(batch, tf.TensorShape) or not isinstance(event, tf.TensorShape):
        return target
    wanted, shape = batch.concatenate(event), target.shape
    if wanted.rank is None or shape.rank is None:
        return target
    if shape.rank == wanted.rank + 1 and shape[-1] == 1:
        target = tf.squeeze(target, axis=-1)
    elif shape.rank == wanted.rank - 1 and wanted[-1] == 1:
        target = tf.expand_dims(target, axis=-1)
    if not target.shape.is_compatible_with(wanted):
        raise ValueError(
            f"Targets must be as the samples of the distribution, {wanted}. "
            f"Received: {shape}"
        )
    return target


# Losses → likelihoods -----------------------------------------------------------------
_FUNCTIONS: dict[Any, type[keras.losses.Loss]] = {
    keras.losses.mean_squared_error: keras.losses.MeanSquaredError,
    keras.losses.binary_crossentropy: keras.losses.BinaryCrossentropy,
    keras.losses.categorical_crossentropy: keras.losses.CategoricalCrossentropy,
    keras.losses.sparse_categorical_crossentropy: (
        keras.losses.SparseCategoricalCrossentropy
    ),
}
_CLASSES: dict[type[keras.losses.Loss], Callable[[bool], Likelihood]] = {
    keras.losses.MeanSquaredError: lambda _: Gaussian(),
    keras.losses.BinaryCrossentropy: Bernoulli,
    keras.losses.CategoricalCrossentropy: Categorical,
    keras.losses.SparseCategoricalCrossentropy: Categorical,
}


def likelihood_of(loss: Any) -> Likelihood:
    """Returns the likelihood behind a loss.

    Args:
      loss: A Keras loss or its name: mean squared error, or binary, categorical or
        sparse categorical cross-entropy; or a `NegativeLogLikelihood`.

    Returns:
      The distribution over an example's targets, given the outputs, that the loss
      stands for.

    Raises:
      ValueError: The loss is another one, or not a mean over the batch.
    """
    found = _instance(loss)
    reduction = getattr(found, "reduction", MEANS[0])
    if reduction not in MEANS:
        raise ValueError(
            f"K-FAC needs a loss that is a mean over the batch: reduction one of "
            f"{', '.join(MEANS)}. Received: reduction={reduction!r}"
        )
    if isinstance(found, NegativeLogLikelihood):
        return Sampled(found.distribution)
    make = _CLASSES.get(type(found))
    if make is None:
        names = ", ".join(kind.__name__ for kind in _CLASSES)
        # What Keras prints of a loss is not always its class.
        is_loss = isinstance(found, keras.losses.Loss)
        received = type(found).__name__ if is_loss else repr(loss)
        raise ValueError(
            "K-FAC needs a loss that is a log-likelihood, to know what the model's "
            f"predictions are: {names}, or `kfac.NegativeLogLikelihood` for any other "
            f"distribution. Received: {received}"
        )
    config = found.get_config()
    if config.get("axis", -1) != -1:
        raise ValueError(
            "K-FAC needs the classes of a cross-entropy along the last axis. "
            f"Received: axis={config['axis']}"
        )
    if config.get("ignore_class") is not None:
        # Its mean is over those of the batch's positions that are not ignored.
        raise ValueError(
            "K-FAC needs a loss of all positions. Received: "
            f"ignore_class={config['ignore_class']}"
        )
    return make(bool(config.get("from_logits", False)))


def _instance(loss: Any) -> Any:
    """Returns the loss that a name, class or function stands for."""
    found = keras.losses.get(loss)
    # As `compile` does; the functions themselves are stricter about shapes.
    return _FUNCTIONS[found]() if found in _FUNCTIONS else found


class _Part(NamedTuple):
    """Loss of one output of a model.

    Attributes:
      loss: Keras loss.
      likelihood: Likelihood behind it.
      weight: w_k.
    """

    loss: keras.losses.Loss
    likelihood: Likelihood
    weight: float


class Likelihoods:
    """Likelihoods of all outputs of a model, each with its weight.

    The curvature of Σ w_k loss_k is Σ w_k F_k. If targets are sampled independently,
    this is the Fisher matrix of Σ √w_k log p_k.

    Args:
      losses: List or dictionary of losses, nested as the model's outputs, None for
        outputs without a loss; or one loss for every output.
      weights: Weights of the losses, nested likewise; None for 1 each.
      output_names: Names of the model's outputs in order, `model.output_names`: needed
        if losses are a dictionary and outputs are a list.

    Raises:
      ValueError: A loss is not supported, see `likelihood_of`; there is no loss; or
        weights do not fit the losses.
    """

    def __init__(
        self,
        losses: Any,
        weights: Any = None,
        output_names: Sequence[str] | None = None,
    ) -> None:
        self._names = output_names
        self._one_for_all = not keras.tree.is_nested(losses)
        given = self._named(losses)
        scales = dict.fromkeys(given, 1.0) if weights is None else self._named(weights)
        if scales.keys() != given.keys():
            raise ValueError(
                f"Loss weights must be as the losses. Received: {weights!r} for "
                f"{losses!r}"
            )
        self._parts = {
            name: _Part(
                _instance(loss),
                likelihood_of(loss),
                # Keras takes None for 1 here too.
                1.0 if scales[name] is None else float(scales[name]),
            )
            for name, loss in given.items()
            if loss is not None
        }
        if not self._parts:
            raise ValueError(f"K-FAC needs a loss. Received: {losses!r}")
        if not all(part.weight >= 0 for part in self._parts.values()):
            raise ValueError(
                f"K-FAC needs loss weights that are not negative. Received: {weights!r}"
            )

    def sampled_log_likelihood(
        self, outputs: Any, key: tf.Tensor, sample_weight: Any = None
    ) -> tf.Tensor:
        """Returns log-likelihoods `[N]` of sampled targets; see `Likelihood`.

        Args:
          outputs: Outputs of the model.
          key: `[2]`, random.
          sample_weight: Weights of the examples in the loss, `[N]` or `[N, 1]`, not
            negative; or a list or dictionary of weights, nested as the outputs.

        Raises:
          ValueError: The outputs are not as the losses, or weights not as examples.
        """
        parts, found = self._matched(outputs)
        weights = self._weights_of(parts, found, sample_weight)
        keys = tf.random.split(key, len(parts))
        terms = []
        for number, (name, part) in enumerate(parts.items()):
            likelihood = part.likelihood.sampled_log_likelihood(
                found[name], keys[number]
            )
            scale = tf.sqrt(part.weight * weights[name])
            terms.append(scale * tf.cast(likelihood, tf.float32))
        return tf.add_n(terms)

    def log_likelihood(
        self, targets: Any, outputs: Any, sample_weight: Any = None
    ) -> tf.Tensor:
        """Returns minus the losses `[N]`, for the empirical Fisher matrix.

        Args:
          targets: Targets of the data, nested as the outputs.
          outputs: Outputs of the model.
          sample_weight: See `sampled_log_likelihood`.

        Raises:
          ValueError: Outputs or targets are not as the losses, or weights not as
            examples.
        """
        parts, found = self._matched(outputs)
        wanted = self._of(parts, targets, "targets")
        weights = self._weights_of(parts, found, sample_weight)
        terms = []
        for name, part in parts.items():
            losses = _losses(part.loss, wanted[name], found[name])
            # The root: an example of weight 2 counts as two in the second moment.
            scale = -part.weight * tf.sqrt(weights[name])
            terms.append(scale * tf.cast(losses, tf.float32))
        return tf.add_n(terms)

    def fisher_inner_products(
        self,
        outputs: Any,
        tangents: Sequence[Any],
        key: tf.Tensor,
        sample_weight: Any = None,
    ) -> tf.Tensor:
        """Returns inner products of directions in the Fisher metric of the batch.

        They are means over the examples.

        Args:
          outputs: Outputs of the model.
          tangents: Change of the outputs along each of D directions, nested as the
            outputs.
          key: `[2]`, random.
          sample_weight: See `sampled_log_likelihood`.

        Returns:
          `[D, D]`.
        """
        parts, found = self._matched(outputs)
        moved = [self._of(parts, each, "tangents") for each in tangents]
        weights = self._weights_of(parts, found, sample_weight)
        keys = tf.random.split(key, len(parts))

        def product(left: Mapping[Any, Any], right: Mapping[Any, Any]) -> tf.Tensor:
            terms = []
            for number, (name, part) in enumerate(parts.items()):
                products = part.likelihood.fisher_product(
                    found[name], left[name], right[name], keys[number]
                )
                weighted = weights[name] * tf.cast(products, tf.float32)
                terms.append(part.weight * tf.reduce_mean(weighted))
            return tf.add_n(terms)

        return tf.stack(
            [tf.stack([product(left, right) for right in moved]) for left in moved]
        )

    # By name or number --------------------------------------------------------------
    def _named(self, values: Any) -> dict[Any, Any]:
        """Returns the parts of a value, a list or a dictionary, by name or number."""
        if isinstance(values, Mapping):
            return dict(values)
        parts = values if isinstance(values, list | tuple) else [values]
        if self._names is not None and len(self._names) == len(parts):
            return dict(zip(self._names, parts, strict=True))
        return dict(enumerate(parts))

    def _matched(
        self, outputs: Any
    ) -> tuple[dict[Any, _Part], Mapping[Any, tf.Tensor]]:
        """Returns the parts that have a loss, and the output of each."""
        parts = self._parts
        if self._one_for_all:
            [part] = parts.values()
            parts = dict.fromkeys(self._named(outputs), part)
        found = self._of(parts, outputs, "outputs")
        for name in parts:
            # Keras takes the mean over the batch's positions that are not masked.
            if getattr(found[name], "_keras_mask", None) is not None:
                raise ValueError(
                    "K-FAC needs a loss of all positions. Received: a mask with the "
                    f"output of shape {found[name].shape}"
                )
        return parts, found

    def _of(
        self, parts: Mapping[Any, _Part], values: Any, what: str
    ) -> Mapping[Any, Any]:
        """Returns the value of each part; if not nested, of the only part."""
        if len(parts) == 1 and not keras.tree.is_nested(values):
            return dict.fromkeys(parts, values)
        named = self._named(values)
        if parts.keys() - named.keys():
            raise ValueError(
                f"The losses must be as the model's {what}. Received losses for "
                f"{list(parts)}, and {what} {list(named)}"
            )
        return named

    def _weights_of(
        self,
        parts: Mapping[Any, _Part],
        outputs: Mapping[Any, tf.Tensor],
        sample_weight: Any,
    ) -> dict[Any, tf.Tensor]:
        """Returns the examples' weights for each part, `[N]`; a scalar if all are 1."""
        given: Mapping[Any, Any] = dict.fromkeys(parts, sample_weight)
        if keras.tree.is_nested(sample_weight):
            given = self._of(parts, sample_weight, "sample weights")
        return {
            name: _example_weights(given[name], outputs[name], part.loss.reduction)
            for name, part in parts.items()
        }


def _example_weights(
    sample_weight: Any, outputs: tf.Tensor, reduction: str
) -> tf.Tensor:
    if sample_weight is None:
        return tf.ones([])
    weight = tf.cast(sample_weight, tf.float32)
    fits = weight.shape[:1].is_compatible_with(outputs.shape[:1])
    if not fits or weight.shape[1:].num_elements() not in (None, 1):
        raise ValueError(
            "K-FAC needs one weight of each example. Received: sample_weight of shape "
            f"{weight.shape} for outputs of shape {outputs.shape}"
        )
    # A shape may be known only now; nothing is broadcast.
    weight = tf.reshape(weight, tf.shape(outputs)[:1])
    if reduction == WEIGHTED_MEAN:
        weight = tf.math.divide_no_nan(weight, tf.reduce_mean(weight))
    return weight


def _losses(loss: keras.losses.Loss, target: Any, outputs: tf.Tensor) -> tf.Tensor:
    """Returns the losses `[N]`, means over each example's positions."""
    # As `Loss.__call__`, before it takes the mean over the batch.
    outputs = keras.ops.convert_to_tensor(outputs, dtype=loss.dtype)
    target = keras.ops.convert_to_tensor(target, dtype=loss.dtype)
    if outputs.shape.rank == 1 and not isinstance(loss, NegativeLogLikelihood):
        # Keras' own losses are means over the last axis, which is the batch here.
        outputs = outputs[:, tf.newaxis]
    losses = loss.call(target, outputs)
    return _sum(losses) / _terms(losses)


def _single(values: tf.Tensor) -> tf.Tensor:
    """Returns values of half precision in single precision, and others as they are.

    Half precision has too few uniform numbers to sample from, and none between 1 − ε
    and 1.
    """
    values = tf.convert_to_tensor(values)
    return tf.cast(values, tf.float32) if values.dtype.size < 4 else values


def _clipped(probability: tf.Tensor) -> tf.Tensor:
    epsilon = keras.config.epsilon()
    return tf.clip_by_value(probability, epsilon, 1.0 - epsilon)


def _sum(terms: tf.Tensor) -> tf.Tensor:
    """Returns the sum over all axes but the first."""
    return tf.reduce_sum(terms, axis=range(1, terms.shape.rank))


def _terms(values: tf.Tensor) -> tf.Tensor:
    """Returns K, the number of elements of an example, scalar."""
    size = tf.cast(tf.reduce_prod(tf.shape(values)[1:]), values.dtype)
    return tf.maximum(size, 1.0)
