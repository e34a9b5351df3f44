"""Hands and eyes of a user at the regional panel of `regional_page.py`."""

from __future__ import annotations

import json
from typing import Any

DOC = "loraclrRegional.panels.get('txt2img').document"
TWO = {
    "v": 1,
    "regions": [
        {"id": "r1", "name": "anna", "shape": {"t": "box", "r": [0.1, 0.2, 0.45, 0.9]}, "prompt": "a woman"},
        {"id": "r2", "shape": {"t": "poly", "p": [[0.55, 0.2], [0.9, 0.3], [0.7, 0.9]]}, "prompt": "a man", "order": 1},
    ],
}


class Panel:
    """The page as a user sees it: positions are fractions of the picture, not of the element."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.set_default_timeout(60_000)
        page.route("**/*", lambda route: route.continue_() if "127.0.0.1" in route.request.url else route.abort())

    def open(self) -> Panel:
        self.page.goto(self.address)
        self.page.locator(".loraclr-canvas").wait_for()
        self.page.wait_for_function(f"{DOC} && loraclrRegional.panels.get('txt2img').view.width > 10")
        return self

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Page coordinates of a point of the picture."""
        box = self.page.locator(".loraclr-canvas").bounding_box()
        px, py = self.page.evaluate(f"loraclrRegional.panels.get('txt2img').view.toScreen({x}, {y})")
        return box["x"] + px, box["y"] + py

    def tool(self, name: str) -> None:
        self.page.locator(f"[data-tool={name}]").click()

    def drag(self, *points: tuple[float, float], held: str | None = None) -> None:
        self.page.locator(".loraclr-canvas").scroll_into_view_if_needed()
        if held:
            self.page.keyboard.down(held)
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point), steps=4)
        self.page.mouse.up()
        if held:
            self.page.keyboard.up(held)

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.at(x, y))
        self.page.wait_for_timeout(400)  # or two clicks are a double click

    def spec(self) -> dict[str, Any]:
        """What the hidden text holds."""
        return json.loads(self.page.locator("#regional_spec textarea").input_value() or "{}")

    def load(self, spec: dict[str, Any]) -> None:
        self.page.evaluate("text => loraclrRegional.panels.get('txt2img').load(text)", json.dumps(spec))
        self.page.wait_for_function(f"!{DOC}.regions.some(({{shape}}) => loraclrRegional.mask.isPending(shape))")

    def given(self) -> dict[str, Any]:
        """What a generation would be given by gradio."""
        self.page.locator("#given textarea").evaluate("element => element.value = ''")
        self.page.locator("#generate").click()
        self.page.wait_for_function("document.querySelector('#given textarea').value !== ''")
        enabled, text = json.loads(self.page.locator("#given textarea").input_value())
        assert enabled is True
        return json.loads(text)

    def pixels(self) -> str:
        """The canvas as a PNG, without what only the pointer shows."""
        panel = "loraclrRegional.panels.get('txt2img')"
        self.page.evaluate(f"() => {{ {panel}.view.overlay = {{}}; {DOC}.select(null); {panel}.view.draw(); }}")
        return self.page.evaluate(f"{panel}.surface.toDataURL()")


def near(found: list[float], wanted: list[float], tolerance: float = 0.012) -> bool:
    return len(found) == len(wanted) and all(abs(a - b) <= tolerance for a, b in zip(found, wanted, strict=True))
