"""The blind rating page: a reference, a picture of a hidden method, two ratings from 1 to 5.

It shows what `evaluate` or the study wrote into a folder. Ratings go to ratings.csv there at once; a rater who comes
back goes on. Pictures are sent inside the page, so that no address tells the method.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lib_loraclr.evaluation.ratings import HIGH, LOW, Mean, Rating, append, order_for, read, summary, trials_of
from lib_loraclr.html import data_address, fragment

CHOICES = [str(k) for k in range(LOW, HIGH + 1)]
SHOWN_REFERENCES = 3
INTRODUCTION = """## Rate pictures
You see reference pictures of somebody or something, and one picture to rate. You do not see how it was made.

**Identity**: is it the same one as in the references? 1 not at all, 5 exactly.

**Quality**: is it a good picture of what the text says? 1 broken, 5 flawless."""
STYLE = """
.loraclr-rate{display:flex;flex-wrap:wrap;gap:2rem;align-items:flex-end}
.loraclr-rate figure{margin:0}.loraclr-rate figcaption{margin-bottom:.4rem}
.loraclr-rate img{display:inline-block;margin:0 .3rem 0 0;max-width:none;border-radius:6px}
.loraclr-results{border-collapse:collapse}
.loraclr-results td,.loraclr-results th{padding:.25rem .8rem;text-align:left;border-bottom:1px solid #8886}
"""


class RatingPage:
    """The page of one folder. Every session carries its rater, its order and its place in it."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError for a folder without pictures to rate."""
        self.folder = folder
        self.trials = trials_of(folder)

    def begin(self, rater: str) -> tuple[dict[str, Any], str, str]:
        """State, picture and message for a rater."""
        rater = " ".join(rater.split())[:60]
        if not rater:
            return {}, "", "Enter a name first; it keeps your ratings together."
        state = {"rater": rater, "order": order_for(rater, self.trials, read(self.folder)), "at": 0}
        return state, self.shown(state), self.place(state)

    def rate(
        self, state: dict[str, Any], identity: str | None, quality: str | None
    ) -> tuple[dict[str, Any], str, str, str | None, str | None]:
        """Store both ratings and go on: state, picture, message, and the emptied ratings."""
        if not state:
            return state, "", "Enter a name and press Start.", identity, quality
        if state["at"] >= len(state["order"]):
            return state, self.shown(state), self.place(state), None, None
        if identity not in CHOICES or quality not in CHOICES:
            return state, self.shown(state), "Give both ratings, then go on.", identity, quality
        trial = self.trials[state["order"][state["at"]]]
        line = Rating(state["rater"], trial.variant, trial.concept, trial.picture.name, int(identity), int(quality))
        append(self.folder, line)
        state = {**state, "at": state["at"] + 1}
        return state, self.shown(state), self.place(state), None, None

    def shown(self, state: dict[str, Any]) -> str:
        """References and picture, as HTML."""
        if not state or state["at"] >= len(state["order"]):
            return ""
        trial = self.trials[state["order"][state["at"]]]
        references = [_address(path) for path in trial.references[:SHOWN_REFERENCES]]
        return fragment("rating.html", "trial", references, trial.prompt, _address(trial.picture))

    def place(self, state: dict[str, Any]) -> str:
        """How far the rater is."""
        if state["at"] >= len(state["order"]):
            return "All pictures are rated. Thank you!"
        return f"Picture {state['at'] + 1} of {len(state['order'])}"

    def results(self) -> str:
        """Means with 95 % intervals per method, as an HTML table."""
        ratings = read(self.folder)
        rows = [
            (variant, mean_text(means["identity"]), mean_text(means["quality"]), means["identity"].count)
            for variant, means in summary(ratings).items()
        ]
        return fragment("rating.html", "results", rows, len({rating.rater for rating in ratings}))

    def build(self) -> Any:
        """The gradio page, for gradio 3.41 and 4.40."""
        import gradio as gr

        theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # nothing from a network
        with gr.Blocks(title="Rate pictures", css=STYLE, theme=theme, analytics_enabled=False) as page:
            gr.Markdown(INTRODUCTION)
            state = gr.State({})
            with gr.Row():
                rater = gr.Textbox(label="Your name", max_lines=1, elem_id="rater")
                start = gr.Button("Start", variant="primary", elem_id="start", scale=0, min_width=140)
            picture = gr.HTML(elem_id="trial")
            message = gr.Markdown(elem_id="message")
            with gr.Row():
                identity = gr.Radio(CHOICES, label="Identity", elem_id="identity")
                quality = gr.Radio(CHOICES, label="Quality", elem_id="quality")
            following = gr.Button("Next", variant="primary", elem_id="next")
            with gr.Accordion("Results (look when you are done)", open=False, elem_id="results"):
                update = gr.Button("Show", elem_id="show")
                table = gr.HTML(elem_id="table")
            start.click(self.begin, [rater], [state, picture, message])
            rater.submit(self.begin, [rater], [state, picture, message])
            following.click(self.rate, [state, identity, quality], [state, picture, message, identity, quality])
            update.click(self.results, [], [table])
        return page


def _address(path: Path) -> str:
    suffix = path.suffix.lower().lstrip(".")
    return data_address(path.read_bytes(), "jpeg" if suffix == "jpg" else suffix)


def mean_text(mean: Mean) -> str:
    """The mean, and the half width of its interval where there is one."""
    return f"{mean.value:.2f}" + ("" if mean.half is None else f" ± {mean.half:.2f}")
