"""What a published experiment is: [paper]. It changes no answer."""

from __future__ import annotations

from pydantic import field_validator, model_validator

from reports.reported import PublishedValue, published_values
from suite.known.gpus import gpus
from suite.spec.part import Part, nearest


class ReportedSpec(Part):
    """Published values that a run will stand beside: those of a paper, and in it of a model or a benchmark."""

    paper: str
    model: str | None = None
    benchmark: str | None = None

    def values(self) -> tuple[PublishedValue, ...]:
        """The rows of reports/reported/reported.csv that this names."""
        return tuple(value for value in published_values() if self._names(value))

    def _names(self, value: PublishedValue) -> bool:
        wanted = ((self.paper, value.paper), (self.model, value.model), (self.benchmark, value.benchmark))
        return all(asked is None or asked == got for asked, got in wanted)

    @model_validator(mode="after")
    def _published(self) -> ReportedSpec:
        papers = sorted({value.paper for value in published_values()})
        if self.paper not in papers:
            raise ValueError(f"no published values of paper {self.paper!r}; {nearest(self.paper, papers)}")
        for key in ("model", "benchmark"):
            known = sorted({getattr(value, key) for value in published_values() if value.paper == self.paper})
            got = getattr(self, key)
            if got is not None and got not in known:
                raise ValueError(f"no published values of {self.paper} on {key} {got!r}; {nearest(got, known)}")
        if not self.values():
            raise ValueError(f"no published values of {self.paper} on {self.model} and {self.benchmark} together")
        return self


class PaperSpec(Part):
    """sources: where the settings were read. hardware: the GPU that the experiment is sized for. reported: the
    published values that a run will stand beside; none where none could be had."""

    sources: tuple[str, ...]
    hardware: str = "h200"
    reported: tuple[ReportedSpec, ...] = ()

    @field_validator("hardware")
    @classmethod
    def _known_gpu(cls, name: str) -> str:
        if name not in gpus():
            raise ValueError(f"unknown GPU {name!r}; {nearest(name, list(gpus()))}")
        return name
