"""Pictures from prompts with LoRA tags, through a host's own sampler."""
