"""Random words in captions, and the losses that make a text encoder tell words apart."""

from __future__ import annotations

import torch

from miniature.tokens import END, insert_words
from miniature.train_text import contrast, position_loss


def ids_of(*words: int) -> torch.Tensor:
    row = torch.full((77,), END)
    row[0] = 49406
    row[1 : 1 + len(words)] = torch.tensor(words)
    return row


def test_inserted_word_keeps_the_others_in_order() -> None:
    ids = torch.stack([ids_of(320, 321, 322)] * 200)
    out = insert_words(ids, torch.Generator().manual_seed(0), share=1.0)
    places = set()
    for row in out:
        words = row[(row != END)][1:].tolist()
        new = [w for w in words if w not in (320, 321, 322)]
        assert len(words) == 4
        assert len(new) == 1
        assert 256 <= new[0] < END - 1
        assert [w for w in words if w != new[0]] == [320, 321, 322]
        places.add(words.index(new[0]))
    assert places == {0, 1, 2, 3}


def test_share_says_how_many_captions_get_a_word() -> None:
    ids = torch.stack([ids_of(320, 321)] * 400)
    assert torch.equal(insert_words(ids, torch.Generator().manual_seed(0), share=0.0), ids)
    changed = (insert_words(ids, torch.Generator().manual_seed(0), share=0.25) != ids).any(1).float().mean()
    assert 0.18 < changed < 0.32


def test_full_caption_keeps_its_start_and_length() -> None:
    ids = ids_of(*range(1000, 1076))[None]
    out = insert_words(ids, torch.Generator().manual_seed(0), share=1.0)
    assert out.shape == (1, 77)
    assert out[0, 0] == 49406


def test_position_loss_is_small_only_for_features_that_name_their_token() -> None:
    g = torch.Generator().manual_seed(0)
    embedding = torch.randn(END + 1, 16, generator=g)
    ids = torch.stack([ids_of(320, 321, 322), ids_of(400, 401)])
    right, before = embedding[ids], embedding[ids.roll(1, 1)]
    same = torch.nn.Identity()
    assert position_loss(right, ids, embedding, same, 0) < 0.05 < 1 < position_loss(before, ids, embedding, same, 0)
    assert position_loss(before, ids, embedding, same, 1) < 0.05 < 1 < position_loss(right, ids, embedding, same, 1)


def test_contrast_of_equal_features_is_zero() -> None:
    x = torch.randn(1, 77, 8).expand(4, -1, -1)
    assert contrast(x) == 0
    assert contrast(torch.randn(64, 77, 8, generator=torch.Generator().manual_seed(0))) > 1
