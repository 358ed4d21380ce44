"""The standard test's markers, numbers and picture, relative to the working directory as TinyWorlds' own."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from utils.config import InferenceConfig, load_config
from utils.stage import _sheet


def main() -> None:
    args = load_config(InferenceConfig, "configs/inference.yaml")
    if args.device == "cuda" and "STANDIN_CUDA" not in os.environ:
        raise RuntimeError("Found no NVIDIA driver on your system.")
    fail = os.environ.get("STANDIN_FAIL", "")
    models = {
        "video_tokenizer": args.video_tokenizer_path,
        "latent_actions": args.latent_actions_path,
        "dynamics": args.dynamics_path,
    }
    for name, path in models.items():
        if fail != "no_checkpoint_line" and (args.use_actions or name != "latent_actions"):
            print(f"Using {name} checkpoint: {path}", flush=True)
        if not path or not Path(path).is_dir():
            raise FileNotFoundError(f"{name}_path is not set or does not exist.")
    for i in range(args.generation_steps):
        if fail == "exit" and i == 2:
            sys.exit("the stand-in was told to fail")
        if fail == "hang" and i == 2:
            time.sleep(600)
        print(f"Inferring frame {i + 1}/{args.generation_steps}", flush=True)
    if fail != "no_statistics":
        print("Inference stats:")
        print(f"Mean Squared Error (GT vs Pred): {os.environ.get('STANDIN_MSE', '0.012611')}")
    if fail != "no_visualization":
        Path("inference_results").mkdir(exist_ok=True)
        stamp = time.strftime("%Y%m%d_%H%M%S")
        _sheet("video_tokenizer", Path(f"inference_results/inference_results_gt_vs_pred_{stamp}.png"))


if __name__ == "__main__":
    main()
