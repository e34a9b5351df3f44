"""Layer names: the canonical one (a diffusers module path behind its component) to and from every key style."""
