"""A small CLIP trained from scratch on the toolkit's synthetic slides, shipped with it: synthetic tissue only."""

from __future__ import annotations

from pathlib import Path

from features.encoders import compute, hub, openclip
from features.encoders.images import check_interpolation, triple
from features.encoders.request import EncoderRequest, refuse_argument
from features.encoders.torch_clip import TorchEncoder
from features.encoders.weights import load_strictly, read_tensors
from features.spec import EncoderSpec
from wsi.errors import UsageError
from wsi.identity import file_sha256

FOLDER = Path(__file__).resolve().parents[1] / "weights"
CONFIG = FOLDER / "demo.json"
WEIGHTS = FOLDER / "demo.safetensors"


def load(request: EncoderRequest) -> TorchEncoder:
    """The shipped network; `scripts/train_demo_encoder.py` made it, and `demo_card.json` says how well it does.

    It knows nothing of real tissue. Raises UsageError for a variant or for weights of one's own.
    """
    refuse_argument("demo", request)
    if request.weights is not None:
        raise UsageError("The demo encoder ships with its weights.", hint="Leave --weights out, or use open_clip.")
    chosen = compute.resolve(request.device, request.precision)
    config = hub.read_json(CONFIG)
    model = openclip.new_clip(config["model_cfg"])
    load_strictly(model, read_tensors(WEIGHTS), WEIGHTS)
    prepare = config["preprocess_cfg"]
    spec = EncoderSpec(
        name="demo",
        dim=config["model_cfg"]["embed_dim"],
        input_px=config["model_cfg"]["vision_cfg"]["image_size"],
        mean=triple(prepare["mean"]),
        std=triple(prepare["std"]),
        interpolation=check_interpolation(prepare["interpolation"]),
        normalised=False,
        weights_sha256=file_sha256(WEIGHTS),
        precision=chosen.precision,
        has_text=True,
        untrained=request.untrained,
        domain="synthetic tissue only",
    )
    return openclip.clip_encoder(model, openclip.bpe_tokenizer(model.context_length), spec, chosen)
