"""The other side of `side_by_side.py`: LAMDA-PILOT's learners, from a checkout that you have.

None of its code is here: this calls its public functions. It needs Python with PILOT's packages
(timm 0.6.13 was used), safetensors, and the checkout:

    python benchmarks/side_by_side_pilot.py LAMDA-PILOT JOB

What is not as in the checkout: the backbone (the job's sizes and weights, in PILOT's own classes),
the side of its crops, images that are read in the process itself, and the batch.
"""

import json
import sys
import time
from functools import partial, partialmethod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SETTINGS: dict[str, dict[str, Any]] = {  # of exps/*.json there, without the schedule
    "simplecil": {},
    "ranpac": {"optimizer": "sgd", "init_lr": 0.01, "weight_decay": 0.0005, "min_lr": 0,
               "use_RP": True, "use_simplecil": False},
    "l2p": {"optimizer": "adam", "init_lr": 0.001875, "weight_decay": 0, "min_lr": 1e-5,
            "scheduler": "constant", "reinit_optimizer": True, "get_original_backbone": True,
            "freeze": ["blocks", "patch_embed", "cls_token", "norm", "pos_embed"],
            "size": 10, "length": 5, "top_k": 5, "prompt_pool": True, "shared_prompt_pool": False,
            "shared_prompt_key": False, "pull_constraint": True, "pull_constraint_coeff": 0.1},
    "coda_prompt": {"optimizer": "adam", "init_lr": 0.001, "weight_decay": 0, "min_lr": 1e-5,
                    "scheduler": "cosine", "reinit_optimizer": True},
    "ease": {"optimizer": "sgd", "init_lr": 0.025, "later_lr": 0.025, "weight_decay": 0.0005,
             "min_lr": 0, "scheduler": "cosine", "use_diagonal": False, "recalc_sim": True,
             "alpha": 0.1, "use_init_ptm": False, "beta": 0, "use_old_data": False,
             "use_reweight": True, "moni_adam": False, "adapter_num": -1},
}  # fmt: skip


def main() -> None:
    """Learn the job's stream and print the seconds of each task."""
    sys.path.insert(0, sys.argv[1])
    job = json.loads(Path(sys.argv[2]).read_text())
    import numpy as np
    import torch
    from utils import data_manager, factory, inc_net, toolkit

    torch.manual_seed(job["seed"])
    args = arguments(job, torch.device("cpu"))
    data_manager._get_idata = lambda name, given=None: images_of(job, args)
    inc_net.get_backbone = lambda given, pretrained=False: backbone_of(job, args)
    inc_net.PromptVitNet.get_original_backbone = lambda self, given: prompted(job, args, 0).eval()
    width = job["vit"]["width"]
    inc_net.CodaPrompt = partial(resized_prompt, inc_net.CodaPrompt, width)
    from backbone import linears

    reweigh = linears.EaseCosineLinear.forward_reweight
    linears.EaseCosineLinear.forward_reweight = partialmethod(reweigh, out_dim=width)
    data = data_manager.DataManager(
        "images", False, job["seed"], args["init_cls"], args["increment"], args
    )
    args |= {"nb_classes": data.nb_classes, "nb_tasks": data.nb_tasks}
    model = factory.get_model(args["model_name"], args)
    sys.modules[type(model).__module__].num_workers = 0
    model.topk = min(model.topk, args["increment"])  # it asks for five classes of the first two
    if args["model_name"] == "coda_prompt":
        model._network.fc = torch.nn.Linear(width, data.nb_classes)
    found: dict[str, Any] = {"learn": [], "evaluate": [], "accuracy": []}
    for _ in range(data.nb_tasks):
        toolkit.count_parameters(model._network)
        timed(found["learn"], partial(model.incremental_train, data))
        answers = timed(found["evaluate"], model.eval_task)
        timed(found["learn"], model.after_task, again=True)
        found["accuracy"].append(round(float(np.asarray(answers[0]["top1"])), 2))
    print(json.dumps(found))


def timed(into: list[list[float]], call: Any, *, again: bool = False) -> Any:
    """Call, and note its seconds on the wall and of the processor; `again` adds to the last."""
    began = time.perf_counter(), time.process_time()
    result = call()
    took = [time.perf_counter() - began[0], time.process_time() - began[1]]
    if again:
        into[-1] = [one + more for one, more in zip(into[-1], took, strict=True)]
    else:
        into.append(took)
    return result


def arguments(job: dict[str, Any], device: Any) -> dict[str, Any]:
    """Return what PILOT reads from its JSON files."""
    name = job["method"].replace("-", "_")
    tasks = len(job["classes"]) // job["increment"]
    return SETTINGS[name] | {
        "model_name": name, "dataset": "cifar224", "memory_size": 0, "memory_per_class": 0,
        "fixed_memory": False, "init_cls": job["increment"], "increment": job["increment"],
        "device": [device], "seed": job["seed"], "batch_size": job["batch"],
        "tuned_epoch": job["epochs"], "init_epochs": job["epochs"], "later_epochs": job["epochs"],
        "M": job["ranpac_size"], "ffn_num": job["rank"], "backbone_type": "the job's",
        "prompt_param": [job["components"] * tasks, job["rows"], 0.0],
    }  # fmt: skip


def images_of(job: dict[str, Any], args: dict[str, Any]) -> Any:
    """Return the job's images with the transforms of PILOT, at the job's side."""
    import numpy as np
    from torchvision import transforms
    from utils import data

    coda = args["model_name"] == "coda_prompt"
    build = data.build_transform_coda_prompt if coda else data.build_transform
    side, found = job["vit"]["size"], data.iData()
    found.train_trsf, found.test_trsf = build(True, args), build(False, args)
    for each in (*found.train_trsf, *found.test_trsf):
        if isinstance(each, transforms.Resize):
            each.size = each.size * side // 224
        elif hasattr(each, "size"):
            each.size = (side, side)
    found.use_path, found.class_order = True, list(range(len(job["classes"])))
    found.download_data = lambda: None
    for part in ("train", "test"):
        files = [
            (str(file), label)
            for label, name in enumerate(job["classes"])
            for file in sorted((Path(job["images"]) / part / name).iterdir())
        ]
        setattr(found, f"{part}_data", np.array([file for file, _ in files]))
        setattr(found, f"{part}_targets", np.array([label for _, label in files]))
    return found


def sizes(job: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes of the job's ViT, as timm and its copies in PILOT name them."""
    vit = job["vit"]
    return {
        "img_size": vit["size"], "patch_size": vit["patch"], "embed_dim": vit["width"],
        "depth": vit["depth"], "num_heads": vit["heads"], "qkv_bias": True,
    }  # fmt: skip


def weights(job: dict[str, Any]) -> dict[str, Any]:
    """Return the job's weights, under timm's names."""
    from safetensors.torch import load_file

    return dict(load_file(job["weights"]))


def backbone_of(job: dict[str, Any], args: dict[str, Any]) -> Any:
    """Return the method's backbone, of PILOT's own classes."""
    name = args["model_name"]
    if name == "l2p":
        return prompted(job, args, args["nb_classes"])
    if name == "coda_prompt":
        from backbone import vit_coda_promtpt

        vit_coda_promtpt.torch = NoLeaves()
        model = vit_coda_promtpt.VisionTransformer(**sizes(job))
        model.load_state_dict(weights(job))
        return model
    if name == "simplecil":
        from timm.models.vision_transformer import VisionTransformer

        model = VisionTransformer(**sizes(job), num_classes=0)
        model.load_state_dict(weights(job))
    else:
        model = adapted(job, args, name)
    model.out_dim = job["vit"]["width"]
    return model.eval()


def prompted(job: dict[str, Any], args: dict[str, Any], classes: int) -> Any:
    """Return L2P's ViT; without classes the one that only queries."""
    from backbone import vit_l2p

    prompts = {
        "prompt_length": args["length"], "pool_size": args["size"], "top_k": args["top_k"],
        "prompt_pool": True, "prompt_key": True, "batchwise_prompt": True, "head_type": "prompt",
        "prompt_init": "uniform", "prompt_key_init": "uniform",
    } if classes else {}  # fmt: skip
    model = vit_l2p.VisionTransformer(**sizes(job), num_classes=classes, **prompts)
    tensors = vit_l2p.checkpoint_filter_fn(weights(job), model)
    model.load_state_dict(tensors, strict=False)
    return model


def adapted(job: dict[str, Any], args: dict[str, Any], name: str) -> Any:
    """Return the ViT with adapters of RanPAC or EASE; nothing else of it is trained."""
    from backbone import vit_adapter, vit_ease

    config = SimpleNamespace(
        ffn_adapt=True, ffn_option="parallel", ffn_adapter_layernorm_option="none",
        ffn_adapter_init_option="lora", ffn_adapter_scalar="0.1", ffn_num=job["rank"],
        d_model=job["vit"]["width"], vpt_on=False, vpt_num=0, _device=args["device"][0],
        attn_bn=job["rank"],
    )  # fmt: skip
    module = vit_ease if name == "ease" else vit_adapter
    model = module.VisionTransformer(**sizes(job), num_classes=0, tuning_config=config)
    tensors = {}
    for key, value in weights(job).items():
        if ".qkv." in key:
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                tensors[key.replace("qkv", f"{part}_proj")] = rows
        else:
            tensors[key.replace("mlp.fc", "fc")] = value
    missing = set(model.load_state_dict(tensors, strict=False).missing_keys)
    for key, parameter in model.named_parameters():
        parameter.requires_grad = key in missing
    return model


class NoLeaves:
    """torch, whose zeros are no leaves.

    CODA-Prompt's ViT adds in place to zeros that it has moved to a device; on a CPU they are the
    leaf itself, which autograd refuses.
    """

    def __getattr__(self, name: str) -> Any:
        import torch

        return getattr(torch, name)

    def zeros(self, *shape: Any, **options: Any) -> Any:
        import torch

        return torch.zeros(*shape, **options).clone()


def resized_prompt(make: Any, width: int, _: int, tasks: int, param: list[float]) -> Any:
    """Return CODA's prompts for another width than the one that is written there."""
    return make(width, tasks, param, key_dim=width)


if __name__ == "__main__":
    main()
