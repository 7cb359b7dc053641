"""Scalars and phases that actor-critic algorithms report."""

from acktr_tf.types import Scalar

LOSS = {
    "policy_loss": Scalar(
        "nats", "Policy gradient loss, the mean over the batch.", "loss/policy"
    ),
    "value_loss": Scalar(
        "return²",
        "One half of the squared error of the value, the mean over the batch.",
        "loss/value",
    ),
    "entropy": Scalar(
        "nats", "Entropy of the policy, the mean over the batch.", "loss/entropy"
    ),
    "explained_variance": Scalar(
        "",
        "Share of the variance of the returns that the value explains: 1 is perfect, 0 "
        "no better than their mean.",
        "loss/explained_variance",
    ),
    "gradient_norm": Scalar(
        "", "Global norm of the gradient of the loss.", "optimizer/gradient_norm"
    ),
    "learning_rate": Scalar(
        "", "Step size that the schedule asks for.", "optimizer/learning_rate"
    ),
    "entropy_cost": Scalar(
        "", "Weight of the entropy that the schedule asks for.", "loss/entropy_cost"
    ),
}

KL = {
    "exact_kl": Scalar(
        "nats",
        "KL divergence from the policy before the step to the one after it, the mean "
        "over the batch.",
        "kl/exact",
    ),
    "exact_kl_joint": Scalar(
        "nats",
        "`exact_kl` and the divergence of the value together: what `predicted_kl` "
        "predicts with critic=joint. With critic=separate that is `exact_kl`.",
        "kl/exact_joint",
    ),
}

KFAC = {
    "predicted_kl": Scalar(
        "nats",
        "KL divergence that the Fisher matrix predicts for the step applied, ½ΔᵀFΔ.",
        "kl/predicted",
    ),
    "trust_region_scale": Scalar(
        "",
        "Factor by which the trust region shortened the step; 1 left it alone.",
        "optimizer/trust_region_scale",
    ),
    "kl_radius": Scalar(
        "nats", "Largest predicted KL of a step; nan without a radius.", "kl/radius"
    ),
    "damping": Scalar("", "Damping of the Fisher matrix.", "optimizer/damping"),
    "failed_factorizations": Scalar(
        "",
        "Factorizations that failed so far and were repeated with more damping.",
        "optimizer/failed_factorizations",
    ),
}

KL_BOUNDS = {
    "target_kl": Scalar(
        "nats",
        "Exact KL of a step that the schedule asks for; nan without a target.",
        "kl/target",
    ),
    "max_kl": Scalar(
        "nats",
        "Largest exact KL of a step that is accepted; nan without a limit.",
        "kl/max",
    ),
}

CRITIC = {
    "critic_predicted_kl": Scalar(
        "nats",
        "As `predicted_kl`, of the separate critic's last step.",
        "critic/predicted_kl",
    ),
    "critic_trust_region_scale": Scalar(
        "",
        "As `trust_region_scale`, of the separate critic's last step.",
        "critic/trust_region_scale",
    ),
}

FIRST_ORDER_PHASES = {
    "gradients": "the gradient of the loss",
    "step": "the step",
}

PHASES = {
    "curvature": "the factors of the Fisher matrix",
    "inverses": "inverting the factors",
    "gradients": "the gradient of the loss",
    "step": "the step and its acceptance",
}

CRITIC_PHASE = {"critic": "the separate critic"}
