"""Experiment files: one TOML per experiment, validated key by key; one file here per group of sections.

Errors name the file, the key, and what was expected. What can change an answer is hashed into a run's name
(suite/experiment.py); where and how fast it runs is not.
"""

from suite.spec.benchmarks import Chat, LongBenchMiniSpec, LongBenchSpec, RulerSpec
from suite.spec.checks import CHECKS, CheckName, ChecksSpec
from suite.spec.experiment import Experiment
from suite.spec.game import GameSpec
from suite.spec.measure import MeasureSpec
from suite.spec.methods import MethodSpec
from suite.spec.model import ModelSpec, ProtocolSpec
from suite.spec.needle import NeedleSpec
from suite.spec.paper import PaperSpec, ReportedSpec
from suite.spec.profiles import FILES, SHAPLEY, ProfilesSpec
from suite.spec.reading import read_experiment, with_game, with_model, with_tasks

__all__ = [
    "CHECKS",
    "FILES",
    "SHAPLEY",
    "Chat",
    "CheckName",
    "ChecksSpec",
    "Experiment",
    "GameSpec",
    "LongBenchMiniSpec",
    "LongBenchSpec",
    "MeasureSpec",
    "MethodSpec",
    "ModelSpec",
    "NeedleSpec",
    "PaperSpec",
    "ProfilesSpec",
    "ProtocolSpec",
    "ReportedSpec",
    "RulerSpec",
    "read_experiment",
    "with_game",
    "with_model",
    "with_tasks",
]
