"""Every attribute of a WebUI that the adapters touch, and the host's file that must define it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

LDM = "repositories/stable-diffusion-stability-ai/ldm/"
SGM = "repositories/generative-models/sgm/"

# file of the host -> names it must define; repositories may be missing in a bare checkout
WEBUI: dict[str, tuple[str, ...]] = {
    "modules/shared.py": ("cmd_opts", "opts", "state", "OptionInfo"),
    "modules/shared_state.py": (
        "begin", "end", "interrupted", "skipped", "stopping_generation", "job_count", "job_no", "sampling_step",
        "sampling_steps", "textinfo",
    ),
    "modules/options.py": ("add_option", "info", "section"),
    "modules/shared_options.py": ("CLIP_stop_at_last_layers", "use_old_scheduling"),
    "modules/cmd_args.py": ("api", "api_auth", "nowebui", "hide_ui_dir_config"),
    "modules/launch_utils.py": ("git_tag",),
    "modules/call_queue.py": ("queue_lock",),
    "modules/progress.py": ("add_task_to_queue", "start_task", "finish_task", "pending_tasks"),
    "modules/prompt_parser.py": ("SdConditioning", "get_learned_conditioning", "end_at_step", "cond"),
    "modules/processing.py": (
        "StableDiffusionProcessing", "StableDiffusionProcessingTxt2Img", "decode_latent_batch", "cached_c",
        "cached_uc", "cached_hr_c", "cached_hr_uc", "prompts", "negative_prompts", "hr_prompts", "hr_negative_prompts",
        "width", "height", "steps", "firstpass_steps", "sampler_name", "cfg_scale", "sample", "comment",
        "extra_generation_params", "enable_hr", "is_hr_pass", "hr_extra_network_data", "hr_upscale_to_x",
        "hr_upscale_to_y", "hr_sampler_name", "hr_second_pass_steps",
    ),
    "modules/extra_networks.py": ("parse_prompt", "items"),
    "modules/sd_samplers.py": ("find_sampler_config",),
    "modules/sd_samplers_common.py": ("total_steps",),
    "modules/sd_samplers_cfg_denoiser.py": ("p", "step", "total_steps", "sampler"),
    "modules/infotext_utils.py": ("PasteField",),
    "modules/ui_components.py": ("InputAccordion",),
    "modules/scripts.py": (
        "Script", "AlwaysVisible", "scripts_data", "script_class", "module", "process", "before_process_batch",
        "process_batch",
        "process_before_every_sampling", "postprocess",
    ),
    "scripts/xyz_grid.py": ("AxisOption", "axis_options", "label"),
    "modules/devices.py": ("cpu",),
    "modules/sd_models.py": (
        "model_data", "sd_model", "sd_checkpoint_info", "filename", "sha256", "name_for_extra",
    ),
    "modules/script_callbacks.py": (
        "add_callback", "callback_map", "callbacks_ui_tabs", "callbacks_app_started", "callbacks_ui_settings",
        "callbacks_cfg_denoiser", "callbacks_cfg_denoised", "callbacks_infotext_pasted", "callbacks_before_ui", "x",
        "denoiser",
    ),
}  # fmt: skip

A1111: dict[str, tuple[str, ...]] = {
    "extensions-builtin/Lora/preload.py": ("lora_dir",),
    "modules/shared.py": ("device", "loaded_hypernetworks", "sd_model"),
    "modules/shared_options.py": ("sdxl_clip_l_skip",),
    "modules/processing.py": ("txt2img_image_conditioning",),
    "modules/devices.py": (
        "autocast", "without_autocast", "unet_needs_upcast", "device", "dtype_unet", "fp8", "torch_gc",
    ),
    "modules/sd_models.py": (
        "send_model_to_cpu", "send_model_to_device", "is_sd1", "is_sd2", "is_sdxl", "fp16_weight",
    ),
    "modules/lowvram.py": ("lowvram",),
    "modules/sd_models_xl.py": (
        "get_learned_conditioning", "apply_model", "parameterization", "cond_stage_key",
    ),
    "modules/sd_unet.py": ("current_unet",),
    "modules/sd_samplers_common.py": ("sampler_extra_args",),
    "modules/sd_hijack.py": (
        "model_hijack", "apply_circular", "circular_enabled", "cond_stage_model", "get_prompt_lengths", "clip",
    ),
    "modules/sd_hijack_clip.py": ("wrapped", "process_texts", "id_end", "tokens"),
    "extensions-builtin/Lora/extra_networks_lora.py": ("ExtraNetworkLora",),
    "extensions-builtin/Lora/lora_patches.py": ("LoraPatches",),
    "extensions-builtin/Lora/network.py": ("filename", "name", "metadata"),
    "extensions-builtin/Lora/networks.py": (
        "available_networks", "list_available_networks", "loaded_networks", "networks_in_memory",
        "network_apply_weights", "network_layer_mapping", "network_current_names", "network_weights_backup",
    ),
    LDM + "models/diffusion/ddpm.py": (
        "apply_model", "ema_scope", "get_learned_conditioning", "linear_start", "num_timesteps", "image_size",
        "parameterization", "model", "diffusion_model", "cond_stage_model", "linear_end",
    ),
    LDM + "modules/encoders/modules.py": ("transformer", "model"),
    SGM + "models/diffusion.py": ("ema_scope", "conditioner", "model"),
    SGM + "modules/encoders/modules.py": ("embedders", "input_key"),
}  # fmt: skip

FORGE: dict[str, tuple[str, ...]] = {
    "extensions-builtin/sd_forge_lora/preload.py": ("lora_dir",),
    "modules/sd_models.py": ("forge_model_reload", "FakeInitialModel", "forge_loading_parameters"),
    "modules_forge/main_entry.py": ("checkpoint_info",),
    "modules_forge/utils.py": ("apply_circular_forge",),
    "backend/memory_management.py": ("soft_empty_cache", "get_torch_device", "load_model_gpu"),
    "backend/sampling/sampling_function.py": ("sampling_prepare", "sampling_cleanup"),
    "backend/diffusion_engine/base.py": (
        "forge_objects", "forge_objects_original", "shallow_copy", "current_lora_hash", "tiling_enabled", "is_inpaint",
        "is_sd1", "is_sd2", "is_sdxl", "set_clip_skip", "get_learned_conditioning", "unet", "clip",
    ),
    "backend/diffusion_engine/sd15.py": ("text_processing_engine", "get_prompt_lengths_on_ui"),
    "backend/nn/unet.py": ("to_k", "to_v"),
    "modules/devices.py": ("autocast",),
    "backend/diffusion_engine/sdxl.py": ("text_processing_engine_l", "text_processing_engine_g", "embedder"),
    "backend/text_processing/classic_engine.py": ("clip_skip", "process_texts", "id_end", "tokens"),
    "backend/patcher/base.py": (
        "lora_loader", "model", "load_device", "clone", "model_options", "set_model_unet_function_wrapper",
        "set_model_attn2_replace", "set_model_sampler_post_cfg_function",
    ),
    "backend/patcher/clip.py": ("patcher", "cond_stage_model"),
    "backend/patcher/lora.py": ("backup", "loaded_hash"),
    "backend/modules/k_model.py": (
        "apply_model", "predictor", "diffusion_model", "storage_dtype", "computation_dtype",
    ),
    "backend/modules/k_prediction.py": ("sigmas", "prediction_type"),
    "backend/operations.py": ("scale_weight",),
    "extensions-builtin/sd_forge_lora/network.py": ("filename", "name", "metadata"),
    "extensions-builtin/sd_forge_lora/networks.py": (
        "available_networks", "list_available_networks", "load_lora_state_dict",
    ),
}  # fmt: skip

LDM_PATCHED: dict[str, tuple[str, ...]] = {
    "extensions-builtin/Lora/preload.py": ("lora_dir",),
    "modules/sd_models.py": ("sd_model",),
    "modules/shared_items.py": ("sd_model",),
    "modules/sd_hijack_clip.py": ("process_texts", "id_end", "tokens"),
    "modules_forge/forge_loader.py": (
        "forge_objects", "forge_objects_original", "shallow_copy", "current_lora_hash", "tiling_enabled", "is_sdxl",
        "unet", "clip", "sd_checkpoint_info", "cond_stage_model", "conditioner", "parameterization",
    ),
    "modules_forge/forge_sampler.py": ("sampling_prepare", "sampling_cleanup", "model_management"),
    "modules_forge/forge_util.py": ("apply_circular_forge",),
    "ldm_patched/modules/model_management.py": (
        "current_loaded_models", "soft_empty_cache", "model", "load_model_gpu",
    ),
    "ldm_patched/modules/model_patcher.py": (
        "backup", "model", "load_device", "clone", "model_options", "set_model_unet_function_wrapper",
        "set_model_attn2_replace", "set_model_sampler_post_cfg_function",
    ),
    "ldm_patched/ldm/modules/attention.py": ("to_k", "to_v"),
    "modules/devices.py": ("autocast",),
    "modules/sd_hijack.py": ("model_hijack", "get_prompt_lengths", "clip"),
    "modules/sd_models_xl.py": ("get_learned_conditioning",),
    "ldm_patched/modules/model_base.py": (
        "apply_model", "model_sampling", "diffusion_model", "manual_cast_dtype", "get_dtype",
    ),
    "ldm_patched/modules/model_sampling.py": ("sigmas",),
    "ldm_patched/ldm/modules/diffusionmodules/openaimodel.py": ("in_channels",),
    "ldm_patched/modules/sd.py": ("patcher", "cond_stage_model"),
    "ldm_patched/modules/sd1_clip.py": ("transformer",),
    "extensions-builtin/Lora/network.py": ("filename", "name", "metadata"),
    "extensions-builtin/Lora/networks.py": (
        "available_networks", "list_available_networks", "load_lora_state_dict",
    ),
    SGM + "modules/encoders/modules.py": ("embedders", "input_key"),
}  # fmt: skip

# what stands for something of the host in the adapters' sources
ROOTS = {
    "shared", "state", "options", "bar", "call_queue", "processing", "devices", "prompt_parser", "sd_models",
    "sd_unet", "sd_hijack", "hijack", "launch_utils", "networks", "network", "model", "engine", "loaded", "checkpoint",
    "embedder", "inner", "layer", "tokenizer", "chunk", "patcher", "unet", "text", "stage", "memory_management",
    "original", "script_callbacks", "util", "chosen", "model_management", "clone", "manager", "p", "params", "denoiser",
    "data", "config", "entry", "extra_networks", "sd_samplers", "scripts", "ui_components", "infotext_utils",
    "model_hijack", "conds", "given",
}  # fmt: skip
OWN = {"self.model", "self._p"}  # what stands for something of the host in an object of ours
# of torch, dict, list, str and ours; or open_clip's, which is no file of the host
OTHERS = {
    "weight", "parameters", "named_modules", "items", "values", "clear", "pop", "get", "cache_clear", "dtype", "type",
    "kernel_size", "in_features", "lower", "encoder", "called", "open_clip", "resblocks", "patcher", "transformer",
    "loraclr_keep_statistics", "loraclr_cache_folder", "bnb_quantized", "gguf_cls", "describe", "loaded_model",
    "require_model", "data",
    "open_folder",  # asked for before it is used: Classic has none
    # asked for as well: what one family has in place of the others', and what a family or an extension may have
    "set_clip_skip", "get_prompt_lengths_on_ui", "get_prompt_lengths", "model_hijack", "clip", "conditioner",
    "input_key", "embedders", "lora_loader", "loaded_hash", "cond_scale_miltiplier", "hr_cfg", "_ad_inner", "_p",
    "split", "with_suffix", "__module__", "positive", "negative", "shape", "guide",
    "register_forward_hook", "register_forward_pre_hook",
}  # fmt: skip

SHARED = (
    "hosts/{conditioning}", "hosts/webui/{application,callbacks,catalogue,checkpoint,host,progress,regional,settings}",
    "frontends/panel/{axes,encoding,script,session}",
)  # fmt: skip
PATCHED = "hosts/webui/{patched_host}"
ADAPTERS = {
    "a1111": (*SHARED, "hosts/webui/a1111/{host,model,networks,regional}"),
    "forge": (*SHARED, PATCHED, "hosts/webui/forge/{host,model,regional}"),
    "ldm_patched": (*SHARED, PATCHED, "hosts/webui/{ldm_patched}", "hosts/webui/forge/{regional}"),
}
TABLES = {"a1111": A1111, "forge": FORGE, "ldm_patched": LDM_PATCHED}


def adapter_files(library: Path, family: str) -> list[Path]:
    """The sources of one adapter with what it shares."""
    found: list[Path] = []
    for pattern in ADAPTERS[family]:
        folder, names = pattern.split("/{")
        found += [library / folder / f"{name}.py" for name in names.rstrip("}").split(",")]
    return found


def known(family: str) -> dict[str, set[str]]:
    """File -> names of one host."""
    names: dict[str, set[str]] = {}
    for table in (WEBUI, TABLES[family]):
        for file, wanted in table.items():
            names.setdefault(file, set()).update(wanted)
    return names


def touched(path: Path) -> set[str]:
    """Names of host attributes in one adapter file: `root.name…`, getattr, hasattr and setattr with a constant."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and _root(node) in ROOTS:
            found.add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            if len(node.args) > 1 and isinstance(node.args[1], ast.Constant) and _root(node.args[0]) in ROOTS:
                found.add(node.args[1].value)
        elif isinstance(node, ast.ImportFrom) and node.module:
            package = node.module.split(".")
            if package[0] in ("modules", "backend", "modules_forge", "ldm_patched") and len(package) > 1:
                found |= {alias.name for alias in node.names}
    return found


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute) and ast.unparse(node) not in OWN:
        node = node.value
    whole = ast.unparse(node)
    return whole.removeprefix("self.").lstrip("_") if whole in OWN else node.id if isinstance(node, ast.Name) else ""


@cache
def defined(path: Path) -> frozenset[str]:
    """Names that a source file gives to anything: functions, classes, variables, attributes, options, arguments."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).split(".")[-1])
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value.lstrip("-").replace("-", "_"))
    return frozenset(found)
