"""What a label costs nothing to guess: the commonest one, and a linear model over words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from forge.records import Labelled

MAX_FEATURES = 100_000


def majority(train: Sequence[Labelled], count: int) -> list[str]:
    """The commonest label of the training rows, for every test row."""
    counts = Counter(body.label for body in train)
    return [min(counts, key=lambda label: (-counts[label], label))] * count


def tfidf(train: Sequence[Labelled], tests: Sequence[Labelled], seed: int) -> list[str] | None:
    """TF-IDF of words and word pairs with logistic regression (scikit-learn); None where it is not installed or there is one class.

    On the section roles of PubMedQA it reaches 0.960: what a language model has to beat to be worth its size.
    """
    if len({body.label for body in train}) < 2:
        return None
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        return None
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=MAX_FEATURES)
    try:
        features = vectorizer.fit_transform([_text(body) for body in train])
    except ValueError:  # no text has a word of two letters
        return None
    model = LogisticRegression(C=10.0, max_iter=1000, random_state=seed)
    model.fit(features, [body.label for body in train])
    return [str(label) for label in model.predict(vectorizer.transform([_text(body) for body in tests]))]


def _text(body: Labelled) -> str:
    return f"{body.question}\n{body.text}"
