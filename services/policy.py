"""The policy of a run: one section per service, each owned by its service's `config` module."""

from __future__ import annotations

from services.gatekeeper.config import Policy as GatekeeperPolicy
from services.inference.config import Policy as InferencePolicy
from services.monitor.config import Policy as MonitorPolicy
from services.reporter.config import Policy as ReporterPolicy
from services.trainer.config import Policy as TrainerPolicy
from shared.config import Config


class Policy(Config):
    """`configs/policy.yaml`: what `RunSpec.policy` holds."""

    gatekeeper: GatekeeperPolicy = GatekeeperPolicy()
    trainer: TrainerPolicy = TrainerPolicy()
    monitor: MonitorPolicy = MonitorPolicy()
    inference: InferencePolicy = InferencePolicy()
    reporter: ReporterPolicy = ReporterPolicy()
