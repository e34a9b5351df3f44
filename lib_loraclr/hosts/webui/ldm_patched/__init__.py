"""WebUIs built on `ldm_patched` (reForge, Classic): A1111's models as shells around Forge's patchers."""
