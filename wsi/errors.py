"""Every error the toolkit raises on purpose.

    ToolkitError                              exit 1
    ├── UsageError            usage           exit 2   the command line or a call was wrong
    │   ├── ConfigError       config                   run.toml, --set
    │   ├── ManifestError     manifest                 slides.csv, labels.csv
    │   └── PromptError       prompts                  prompt files
    ├── SetupError            setup           exit 5   the machine lacks something
    │   ├── WeightsError      weights                  no weights, wrong weights
    │   ├── StorageError      storage                  cannot write: permission, read-only
    │   │   └── NoSpace       no_space                 disk full
    │   └── SchedulerError    scheduler                the Dask scheduler is gone
    ├── SlideError            slide           exit 3   one slide is refused, the batch goes on
    │   ├── SlideMissing      slide_missing            no such file, or not readable by this user
    │   ├── SlideUnsupported  slide_unsupported        not a slide in any format known here
    │   ├── SlideTruncated    slide_truncated          the file ends, or is zeros, before its own index says so
    │   ├── SlideUnreadable   slide_unreadable         its pixels cannot be decoded, or its storage fails
    │   │   └── SlideUnreachable  slide_unreachable        its server or the network fails: it may go well next time
    │   ├── SlideChanged      slide_changed            its bytes are not those of the first run, by --hash full
    │   ├── SlideImplausible  slide_implausible        declared sizes that its length or its mpp rules out
    │   ├── MppMissing        mpp_missing              no physical resolution
    │   ├── MppImplausible    mpp_implausible          outside 0.05-20 um/px
    │   ├── MppTooCoarse      mpp_too_coarse           asked-for mpp is finer than the slide has
    │   ├── StainsUnfit       stains_unfit             stains asked to be normalised that cannot be told apart
    │   ├── TissueInvalid     tissue_invalid           the file with its tissue cannot be used
    │   ├── FeaturesInvalid   features_invalid         the encoder gave NaN, or more than float16 can hold
    │   ├── ReaderCrashed     reader_crashed           the reader process died
    │   ├── ReaderTimeout     reader_timeout           the reader process stopped answering
    │   └── ReaderMemory      reader_memory            the reader process wanted more than its cap
    └── ArtefactError         artefact        exit 5   something this toolkit wrote is not as it was
        ├── GridDamaged       grid_damaged             a feature grid lacks chunks or fails its checksums
        └── EncoderMismatch   encoder_mismatch         features of one encoder, head or prompts of another

A message says what went wrong and with which file; the `hint`, its last sentence, says what to do next.
`code` is stable: scripts and tests may rely on it.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ToolkitError(Exception):
    """Root of all. `facts` (path, mpp, ...) become attributes and survive `as_record`/`from_record`."""

    code: ClassVar[str] = "toolkit"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.facts = facts
        for name, value in facts.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def as_record(self) -> dict[str, Any]:
        """Plain JSON, to cross a process border or to be written to the ledger."""
        facts = {k: v if isinstance(v, int | float | str | bool | None) else str(v) for k, v in self.facts.items()}
        return {"code": self.code, "message": self.message, "hint": self.hint, "facts": facts}

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call __init__ without the keyword facts and lose the hint on its way through Dask.
        return from_record, (self.as_record(),)


class UsageError(ToolkitError):
    code, exit_code = "usage", 2


class ConfigError(UsageError):
    code = "config"


class ManifestError(UsageError):
    code = "manifest"


class PromptError(UsageError):
    code = "prompts"


class SetupError(ToolkitError):
    code, exit_code = "setup", 5


class WeightsError(SetupError):
    code = "weights"


class StorageError(SetupError):
    code = "storage"


class NoSpace(StorageError):
    code = "no_space"


class SchedulerError(SetupError):
    code = "scheduler"


class SlideError(ToolkitError):
    code, exit_code = "slide", 3


class SlideMissing(SlideError):
    code = "slide_missing"


class SlideUnsupported(SlideError):
    code = "slide_unsupported"


class SlideTruncated(SlideError):
    code = "slide_truncated"


class SlideUnreadable(SlideError):
    code = "slide_unreadable"


class SlideUnreachable(SlideUnreadable):
    code = "slide_unreachable"


class SlideChanged(SlideError):
    code = "slide_changed"


class SlideImplausible(SlideError):
    code = "slide_implausible"


class MppMissing(SlideError):
    code = "mpp_missing"


class MppImplausible(SlideError):
    code = "mpp_implausible"


class MppTooCoarse(SlideError):
    code = "mpp_too_coarse"


class StainsUnfit(SlideError):
    code = "stains_unfit"


class TissueInvalid(SlideError):
    code = "tissue_invalid"


class FeaturesInvalid(SlideError):
    code = "features_invalid"


class ReaderCrashed(SlideError):
    code = "reader_crashed"


class ReaderTimeout(SlideError):
    code = "reader_timeout"


class ReaderMemory(SlideError):
    code = "reader_memory"


class ArtefactError(ToolkitError):
    code, exit_code = "artefact", 5


class GridDamaged(ArtefactError):
    code = "grid_damaged"


class EncoderMismatch(ArtefactError):
    code = "encoder_mismatch"


def _family(root: type[ToolkitError]) -> dict[str, type[ToolkitError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _family(child)
    return found


def from_record(record: dict[str, Any]) -> ToolkitError:
    """The error that `as_record` described; an unknown code comes back as the root."""
    kind = _family(ToolkitError).get(record.get("code", ""), ToolkitError)
    return kind(record["message"], hint=record.get("hint", ""), **record.get("facts", {}))
