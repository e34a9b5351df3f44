"""A1111: the loaded checkpoint of `shared.sd_model`, an original-code-base model that lives on its device."""
