"""Logits and the ensemble, against their formulas."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from score.model.classifier import Ensemble, InVocabulary, similarity


def test_a_class_scores_by_its_best_synonym() -> None:
    bank = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), dim=-1)
    logits = similarity(torch.tensor([[[0.0, 3.0]]]), bank, [2, 1], torch.tensor(10.0))
    torch.testing.assert_close(logits, torch.tensor([[[10.0, 0.0]]]))


def test_scale_starts_at_the_temperature_and_is_bounded() -> None:
    classifier = InVocabulary(embed_dim=4, temperature=0.07, max_scale=100.0)
    assert math.isclose(classifier.log_scale.exp().item(), 1 / 0.07, rel_tol=1e-5)
    embeds, bank = torch.randn(1, 2, 4), torch.randn(1, 3, 4)
    with torch.no_grad():
        classifier.log_scale.fill_(50.0)
    logits = classifier(embeds, bank, [1, 1, 1])
    assert logits.shape == (1, 2, 4)
    expected = 100 * F.normalize(embeds, dim=-1) @ F.normalize(classifier.void, dim=-1)[0]
    torch.testing.assert_close(logits[..., -1], expected)


def test_ensemble_is_a_weighted_geometric_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    inside, outside = torch.randn(5, 4, generator=generator), torch.randn(5, 3, generator=generator)
    seen = torch.tensor([True, False, True])
    got = Ensemble(alpha=0.3, beta=0.9)(inside, outside, seen)
    p_in, p_out = inside[:, :-1].softmax(-1), outside.softmax(-1)
    weight = torch.tensor([0.3, 0.9, 0.3])
    mixed = (p_in ** (1 - weight) * p_out**weight).log().softmax(-1)
    void = inside.softmax(-1)[:, -1:]
    torch.testing.assert_close(got, torch.cat([mixed * (1 - void), void], dim=-1).add(1e-8).log())
    torch.testing.assert_close(got.exp().sum(-1), torch.ones(5), rtol=0, atol=1e-6)


def test_ensemble_ends_are_one_classifier_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    inside, outside = torch.randn(5, 4, generator=generator), torch.randn(5, 3, generator=generator)
    seen = torch.tensor([True, True, True])
    alone = Ensemble(alpha=0.0, beta=1.0)(inside, outside, seen)
    torch.testing.assert_close(alone, torch.log(inside.softmax(-1) + 1e-8), rtol=1e-5, atol=1e-5)


def test_ensemble_survives_probabilities_that_underflow() -> None:
    inside = torch.tensor([[300.0, -300.0, 0.0]])
    got = Ensemble(alpha=0.4, beta=0.8)(inside, torch.tensor([[-300.0, 300.0]]), torch.tensor([True, False]))
    assert got.isfinite().all()


def test_a_batch_is_combined_query_by_query() -> None:
    generator = torch.Generator().manual_seed(0)
    inside, outside = torch.randn(2, 5, 4, generator=generator), torch.randn(2, 5, 3, generator=generator)
    seen, ensemble = torch.tensor([True, False, False]), Ensemble(alpha=0.4, beta=0.8)
    got = ensemble(inside, outside, seen)
    for b, q in ((0, 0), (0, 4), (1, 2)):
        torch.testing.assert_close(got[b, q], ensemble(inside[b, q : q + 1], outside[b, q : q + 1], seen)[0])


def test_each_image_has_a_bank_of_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    embeds, bank = torch.randn(2, 3, 4, generator=generator), torch.randn(2, 5, 4, generator=generator)
    logits = similarity(embeds, bank, [1, 3, 1], torch.tensor(2.0))
    cosines = 2 * F.normalize(embeds[1, 2], dim=0) @ bank[1].T  # the bank is used as it is
    torch.testing.assert_close(logits[1, 2], torch.stack([cosines[0], cosines[1:4].max(), cosines[4]]))


def test_void_is_normalised_and_last_in_every_image() -> None:
    torch.manual_seed(0)
    classifier, bank = InVocabulary(embed_dim=4, temperature=0.1, max_scale=100.0), torch.randn(2, 3, 4)
    rows = classifier.with_void(bank)
    torch.testing.assert_close(rows[:, :3], bank)
    torch.testing.assert_close(rows[:, 3], F.normalize(classifier.void, dim=-1).expand(2, -1))
    assert float(classifier.void.detach().std()) > 0.1
