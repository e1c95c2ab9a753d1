"""
Errors that a user can meet. The exit code of the command is 2 where none is given.

    EdgewiseError
    ├── ConfigError               an option or a config key is wrong
    ├── TaskError                 rows, template or task file are wrong
    ├── RewardError               a reward function is wrong, raised, or returned no number
    ├── ModelError                a model or its server can't be used as asked
    │   ├── WrongKey              the provider refused the API key
    │   ├── UnknownModel          the provider does not have this model
    │   ├── AllFailed             every rollout of a step failed
    │   ├── UnknownPrice          a dollar limit without a price for the model
    │   ├── BrokenModelFile       an embedded model's file does not match its checksum
    │   ├── OutOfMemory           a model or one sequence does not fit into memory
    │   ├── LostProcess           (3) a process of distributed training is gone; the run resumes
    │   └── ProviderDown          (3) unreachable or overloaded after all retries; the run resumes
    ├── JournalError              the journal can't be read
    │   ├── NotRecorded           a replay needs a call that was never recorded
    │   └── DiskFull              (3) no room to write; paid replies are kept
    ├── ArtifactError             an artefact is missing, damaged or of another format
    ├── LibraryError              a library can't be read or changed as asked
    │   ├── Conflict              two changes of a library contradict each other
    │   └── StoreDown             (3) the library's database can't be reached
    ├── GraphError                an agent graph, or a role of it, is wrong
    ├── LimitReached              (3) dollars, tokens, calls or minutes are used up; the run resumes
    ├── LimitTooSmall             the limits can't pay for one step of learning
    ├── Hopeless                  too few rows to show any gain
    └── Interrupted               (130) stopped by the user; the run resumes

A model's malformed reply (no JSON, an unknown id) is no exception: the code that reads it reports it.
"""


class EdgewiseError(Exception):
    """Base of all errors that the command shows as one sentence; `exit_code` is that of the command."""

    exit_code = 2  # the user has to change something first


class ConfigError(EdgewiseError):
    """An option or a config key is wrong."""


class TaskError(EdgewiseError):
    """Rows, template or task file are wrong."""


class RewardError(EdgewiseError):
    """A reward function is wrong, raised, or returned no number."""


class ModelError(EdgewiseError):
    """A model or its server can't be used as asked."""


class WrongKey(ModelError):
    """The provider refused the API key."""


class UnknownModel(ModelError):
    """The provider does not have this model."""


class AllFailed(ModelError):
    """Every rollout of a step failed; the failures are recorded, so the run does not resume."""


class UnknownPrice(ModelError):
    """A dollar limit was set without a known price for the model."""


class BrokenModelFile(ModelError):
    """An embedded model's file does not match its checksum."""


class OutOfMemory(ModelError):
    """A model or one sequence does not fit into memory."""


# Exit code 3, here and below: the same command resumes the run where it stopped.


class LostProcess(ModelError):
    """A process of distributed training has ended or can't be reached."""

    exit_code = 3


class ProviderDown(ModelError):
    """The provider can't be reached, or is overloaded, after all retries."""

    exit_code = 3


class JournalError(EdgewiseError):
    """The journal can't be read or written."""


class NotRecorded(JournalError):
    """A replay needs a call that was never recorded."""


class DiskFull(JournalError):
    """There is no room to write; paid replies are kept."""

    exit_code = 3


class ArtifactError(EdgewiseError):
    """An artefact is missing, damaged or of another format."""


class LibraryError(EdgewiseError):
    """A library can't be read or changed as asked."""


class Conflict(LibraryError):
    """Two changes of a library contradict each other; neither is lost."""


class StoreDown(LibraryError):
    """The library's database can't be reached."""

    exit_code = 3


class GraphError(EdgewiseError):
    """An agent graph, or a role of it, is wrong."""


class LimitReached(EdgewiseError):
    """Dollars, tokens, calls or minutes are used up."""

    exit_code = 3


class LimitTooSmall(EdgewiseError):
    """The limits can't pay for one step of learning."""


class Hopeless(EdgewiseError):
    """There are too few rows to show any gain, however large."""


class Interrupted(EdgewiseError):
    """The user stopped the run; finished calls are saved."""

    exit_code = 130  # 128 + SIGINT, as shells have it
