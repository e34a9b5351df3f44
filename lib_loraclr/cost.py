"""What is asked of the model, counted before it is asked: the one place that capture, distillation, estimate, progress
and the documentation's table count from. Pure functions of numbers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Count:
    """`steps` of progress; `rows`: forward passes of the UNet on one picture (a guided picture has two a step);
    `backward`: rows whose gradient is taken; `texts`: prompts that the text encoder reads.
    """

    steps: int = 0
    rows: int = 0
    backward: int = 0
    texts: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(
            self.steps + other.steps,
            self.rows + other.rows,
            self.backward + other.backward,
            self.texts + other.texts,
        )

    def __mul__(self, times: int) -> Count:
        return Count(self.steps * times, self.rows * times, self.backward * times, self.texts * times)

    @property
    def work(self) -> int:
        """In forward passes of one picture: a backward pass costs about two."""
        return self.rows + 2 * self.backward


def batches(pictures: int, batch: int) -> int:
    """How many batches hold so many pictures."""
    return -(-pictures // batch)


def texts_read(prompts: int) -> Count:
    """The text encoder and the K/V layers alone: one step, whatever the number of prompts."""
    return Count(steps=1, texts=prompts)


def sampled(pictures: int, *, steps: int, batch: int, guided: bool = False) -> Count:
    """Sampling: one progress step for every step of a batch; guidance runs every picture with two prompts."""
    prompts = 2 if guided else 1
    return Count(batches(pictures, batch) * steps, pictures * steps * prompts, texts=pictures * prompts)


def taught(pictures: int, *, steps: int, batch: int, levels: int, guided: bool) -> Count:
    """Pictures that are drawn, noised `levels` times and predicted again by the model that drew them."""
    predicted = Count(batches(pictures, batch) * levels, pictures * levels, texts=pictures * levels)
    return sampled(pictures, steps=steps, batch=batch, guided=guided) + predicted


def predicted(rows: int) -> Count:
    """One model's predictions of so many noisy pictures, as one step."""
    return Count(1, rows, texts=rows)


def learned(steps: int, rows: int) -> Count:
    """Descent with so many predictions a step."""
    return Count(steps, steps * rows, steps * rows, steps * rows)


PROBE = Count(rows=1, texts=1)  # one small step of sampling that finds out which layers share their inputs
TEXT_PROBE = Count(texts=1)


def groups(sizes: list[int], budget: int) -> list[int]:
    """How many items go into each pass; a pass is within the budget unless it is a single item."""
    found: list[int] = []
    held = 0
    for size in sizes:
        if not found or held + size > budget:
            found.append(0)
            held = 0
        found[-1] += 1
        held += size
    return found
