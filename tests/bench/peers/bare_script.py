"""What everybody writes first: load the pipeline, paint one picture, save it. Prints when it got how far."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main() -> None:
    at_s = {"began": time.time()}
    import torch

    from darkroom.inference.tiny import trained_model
    from tests.bench.contenders import load_pipelines
    from tests.bench.offline import skeleton

    torch.set_num_threads(1)
    at_s["imported"] = time.time()
    _, posed = load_pipelines(trained_model())
    at_s["loaded"] = time.time()
    from tests.bench.peers.painting import opened

    picture = posed(
        prompt="a dancer on a stage",
        image=opened(skeleton(0, 64).model_dump(mode="json")),
        num_inference_steps=25,
        generator=torch.Generator("cpu").manual_seed(7),
    ).images[0]
    picture.save(Path(sys.argv[1]))
    at_s["painted"] = time.time()
    print(json.dumps(at_s))


if __name__ == "__main__":
    main()
