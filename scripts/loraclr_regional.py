"""The regional prompter as the WebUI sees it: a script that is always there, its callbacks, and nothing else."""

from modules import scripts

# A1111 takes our folder off sys.path after this file; the package stays because it is imported by then.
from lib_loraclr.hosts.webui.callbacks import register


class LoraclrRegional(scripts.Script):
    """Arguments, also for the API: enabled, regions (JSON text or object)."""

    sorting_priority = 20  # after ControlNet, whose attention replacements are wrapped

    def title(self):
        return "LoRACLR Regional"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        from lib_loraclr.hosts.webui.regional_script import build_ui

        return build_ui(self, is_img2img)

    def process(self, p, *given):
        from lib_loraclr.hosts.webui.regional_script import begin

        begin(p, given)

    def before_process_batch(self, p, *given, prompts=None, **kwargs):
        from lib_loraclr.hosts.webui.regional_script import before_batch

        before_batch(p, prompts if prompts is not None else p.prompts)

    def process_batch(self, p, *given, **kwargs):
        from lib_loraclr.hosts.webui.regional_script import before_sampling

        before_sampling(p)

    def process_before_every_sampling(self, p, *given, x=None, **kwargs):
        from lib_loraclr.hosts.webui.regional_script import start_pass

        start_pass(p, x)

    def postprocess(self, p, processed, *given):
        from lib_loraclr.hosts.webui.regional_script import end

        end(p)


def cfg_denoiser(params):
    from lib_loraclr.hosts.webui.regional_script import denoiser

    denoiser(params)


def cfg_denoised(params):
    from lib_loraclr.hosts.webui.regional_script import denoised

    denoised(params)


def infotext_pasted(infotext, params):
    from lib_loraclr.hosts.webui.regional_script import pasted

    pasted(infotext, params)


def before_ui():
    from lib_loraclr.hosts.webui.regional_axes import add_axes

    add_axes()


def app_started(_demo, app):
    from lib_loraclr.hosts.webui.application import api_credentials, api_wanted

    if api_wanted():
        from lib_loraclr.frontends.api.regional import add_regional_routes

        add_regional_routes(app, api_credentials())


register(
    __file__,
    cfg_denoiser=cfg_denoiser,
    cfg_denoised=cfg_denoised,
    infotext_pasted=infotext_pasted,
    before_ui=before_ui,
    app_started=app_started,
)
