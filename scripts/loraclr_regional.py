"""The regional prompter as the WebUI sees it: a script that is always there, its callbacks, and nothing else."""

from functools import cache

from modules import scripts

# A1111 takes our folder off sys.path after this file; the package stays because it is imported by then.
from lib_loraclr.hosts.webui.callbacks import register


@cache
def regional():
    """What the script does; made when it is first needed. None in a WebUI of another family."""
    from lib_loraclr.core.errors import InputError
    from lib_loraclr.frontends.panel.script import RegionalScript
    from lib_loraclr.hosts.detect import webui_application

    try:
        return RegionalScript(webui_application().regional())
    except InputError:  # the tab says why
        return None


class LoraclrRegional(scripts.Script):
    """Arguments, also for the API: enabled, regions (JSON text or object)."""

    sorting_priority = 20  # after ControlNet, whose attention replacements are wrapped

    def title(self):
        return "LoRACLR Regional"

    def show(self, is_img2img):
        return False if regional() is None else scripts.AlwaysVisible

    def ui(self, is_img2img):
        return regional().build(self, is_img2img)

    def process(self, p, *args):
        regional().begin(p, args)

    def before_process_batch(self, p, *args, prompts=None, **kwargs):
        regional().before_batch(p, prompts if prompts is not None else p.prompts)

    def process_batch(self, p, *args, **kwargs):
        regional().before_sampling(p)

    def process_before_every_sampling(self, p, *args, x=None, **kwargs):
        regional().start_pass(p, x)

    def postprocess(self, p, processed, *args):
        regional().end(p)


def calling(name):
    """A callback that is a method of `regional()`."""

    def call(*args):
        if regional() is not None:
            getattr(regional(), name)(*args)

    return call


def app_started(_demo, app):
    from lib_loraclr.hosts.webui.application import api_credentials, api_wanted

    if api_wanted():
        from lib_loraclr.frontends.api.regional import add_regional_routes

        add_regional_routes(app, api_credentials())


register(
    __file__,
    cfg_denoiser=calling("step"),
    cfg_denoised=calling("guide"),
    infotext_pasted=calling("pasted"),
    before_ui=calling("add_axes"),
    app_started=app_started,
)
