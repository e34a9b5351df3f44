"""What all WebUIs of the family share: LoRA catalogue, queue and progress bar, settings, prompts with their padding."""
