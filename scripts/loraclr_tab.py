"""What the WebUI executes: registers the tab, the settings and the API, and imports nothing before it is needed."""

# A1111 takes our folder off sys.path after this file; the package stays because it is imported by then.
from lib_loraclr.hosts.webui.callbacks import register


def ui_tabs():
    from lib_loraclr.core.errors import InputError
    from lib_loraclr.frontends.tab.tab import build_notice, build_tab
    from lib_loraclr.hosts.detect import webui_application

    try:
        blocks = build_tab(webui_application())
    except InputError as error:  # a WebUI of another family: the tab says so, and everything else works
        blocks = build_notice(error.message)
    return [(blocks, "LoRACLR", "loraclr_tab")]


def app_started(_demo, app):
    import contextlib

    from lib_loraclr.core.errors import InputError
    from lib_loraclr.hosts.webui.application import api_credentials, api_wanted

    if api_wanted():
        from lib_loraclr.frontends.api.routes import add_routes
        from lib_loraclr.hosts.detect import webui_application

        with contextlib.suppress(InputError):  # of a WebUI of another family; the tab says it
            add_routes(app, webui_application(), api_credentials())


def ui_settings():
    from lib_loraclr.hosts.webui import settings

    settings.register()


register(__file__, ui_tabs=ui_tabs, app_started=app_started, ui_settings=ui_settings)
