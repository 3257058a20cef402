"""The neural editor: a sentence is another sentence, changed by an edit vector.

    python examples/neural_editor.py --data-dir PATH
    python examples/neural_editor.py --data-dir PATH --budget quick

Guu et al., Generating Sentences by Editing Prototypes, 2018,
https://arxiv.org/abs/1709.08878, on short English sentences of Tatoeba. An edit vector
z = norm x direction depends on the words inserted and deleted. Its posterior has a
fixed spread, so the KL is always 27.78 nats, and nothing is annealed. The
decoder reads the prototype and z, and writes the sentence word by word.
"""

import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow_probability as tfp
from matplotlib.figure import Figure

import reproduction
import sentences
import tfp_vae as tv

tfd = tfp.distributions
ops: Any = keras.ops

LATENT, CONCENTRATION, MAX_NORM, WIDTH, UNITS, BATCH = 128, 100.0, 14.0, 0.1, 128, 128
EPOCHS = {reproduction.QUICK: 2, reproduction.FULL: 15}
PATIENCE = 2
WITH_EDITS = {"without z": False, "with z": True}


def main(argv: Sequence[str] | None = None) -> reproduction.Report:
    """Trains with and without z, evaluates, edits sentences and writes the result."""
    args = reproduction.parse(
        __doc__, "neural_editor", argv, EPOCHS, trainings=lambda args: [*WITH_EDITS]
    )
    training = f"at most {args.epochs} epochs, until {PATIENCE} without gain"
    report = reproduction.Report("neural_editor", "Neural editor", args, training)
    corpus = sentences.load(args.data_dir)
    if args.quick:
        corpus = corpus.few(1500)
    train, valid, test = corpus.pairs(args.seed)
    print(f"{len(corpus.words)} words; pairs: {[len(p.target) for p in (train, test)]}")

    found = {}
    for name, edits in WITH_EDITS.items():
        keras.utils.set_random_seed(args.seed)
        inference, decoder = networks(corpus, edits)
        model = together(inference, decoder, edits)
        rate = 3e-3 if args.quick else 1e-3
        model.compile(keras.optimizers.Adam(rate), tv.NegativeLogLikelihood())
        if args.quick:
            report.add(f"untrained perplexity {name}", perplexity(model, test)[0])
        stop = keras.callbacks.EarlyStopping(
            patience=PATIENCE, restore_best_weights=True
        )
        report.fit(
            name,
            model,
            inputs(train),
            y=train.target,
            sample_weight=train.mask,
            batch_size=BATCH,
            epochs=args.epochs,
            validation_data=(inputs(valid), valid.target, valid.mask),
            callbacks=[stop],
            verbose=2,
        )
        found[name] = perplexity(model, test)

    q = inference([test.inserted, test.deleted])
    kl = tfd.kl_divergence(q, tv.UniformDirectionAndNorm(LATENT, MAX_NORM)())
    closed = "closed form, SciPy"
    report.add("KL of each edit, nats", np.mean(kl), 27.78, closed, 0.005)
    report.add("largest difference between two KLs, nats", np.ptp(kl))
    plain, _ = found["without z"]
    given, bound = found["with z"]
    report.add("perplexity of a word without z", plain, higher_is_better=False)
    report.add("perplexity of a word given z", given, higher_is_better=False)
    report.add("perplexity of the bound, KL included", bound, higher_is_better=False)
    show(corpus, test, inference, decoder, args.seed)
    report.picture("kl", histogram(kl))
    report.write()
    return report


def inputs(pairs: sentences.Pairs) -> list[np.ndarray]:
    """The inputs: the prototype, the words before each word, the words of the edit."""
    return [pairs.source, pairs.before, pairs.inserted, pairs.deleted]


def networks(corpus: sentences.Corpus, edits: bool) -> tuple[Any, keras.Model]:
    """The inference network q(z | x', x) and the decoder p(x | x', z)."""
    size, steps = len(corpus.words), corpus.steps
    embedding = keras.layers.Embedding(size, UNITS)
    words = {name: keras.Input((steps,), dtype="int32") for name in ("in", "out")}
    project = keras.layers.Dense(LATENT // 2, use_bias=False)
    halves = []
    for bag in words.values():
        present = ops.expand_dims(ops.cast(ops.not_equal(bag, 0), "float32"), -1)
        halves.append(project(ops.sum(embedding(bag) * present, axis=1)))
    layer = tv.DirectionAndNorm(LATENT, CONCENTRATION, MAX_NORM, WIDTH)
    q = layer(keras.layers.Concatenate()(halves))
    inference = keras.Model(list(words.values()), q) if edits else None

    source = keras.Input((steps,), dtype="int32")
    before, z = keras.Input((steps,), dtype="int32"), keras.Input((LATENT,))
    read = keras.layers.Bidirectional(
        keras.layers.GRU(UNITS, return_sequences=True), merge_mode="concat"
    )(embedding(source))
    last = keras.layers.GlobalMaxPooling1D()(read)
    agenda = keras.layers.Dense(2 * UNITS, activation="tanh")(
        keras.layers.Concatenate()([last, z]) if edits else last
    )
    h = keras.layers.Concatenate()(
        [embedding(before), keras.layers.RepeatVector(steps)(agenda)]
    )
    h = keras.layers.GRU(2 * UNITS, return_sequences=True)(h, initial_state=agenda)
    seen = keras.layers.Attention()([h, read])
    h = keras.layers.Dropout(0.3)(keras.layers.Concatenate()([h, seen]))
    logits = keras.layers.Flatten()(keras.layers.Dense(size)(h))
    p = tv.IndependentCategorical(steps, num_categories=size)(logits)
    given = [source, before, z] if edits else [source, before]
    return inference, keras.Model(given, p)


def together(inference: Any, decoder: keras.Model, edits: bool) -> tv.Model:
    """The model that is trained, with minus the bound as the loss."""
    steps = decoder.input_shape[0][1]
    given = [keras.Input((steps,), dtype="int32") for _ in range(4)]
    source, before, inserted, deleted = given
    if edits:
        prior = tv.UniformDirectionAndNorm(LATENT, MAX_NORM)
        z = tv.KLDivergenceAddLoss(prior)(inference([inserted, deleted]))
        return tv.Model(given, decoder([source, before, z]))
    return tv.Model(given, decoder([source, before]))


def perplexity(model: keras.Model, pairs: sentences.Pairs) -> tuple[float, float]:
    """Perplexity of a word given z, and of the bound, which includes the KL."""
    found = model.evaluate(
        inputs(pairs), pairs.target, BATCH, 0, pairs.mask, return_dict=True
    )
    words = pairs.mask.sum(axis=1).mean()
    without_kl = found["loss"] - found.get("kl", 0.0)
    return float(np.exp(without_kl / words)), float(np.exp(found["loss"] / words))


def show(
    corpus: sentences.Corpus, pairs: Any, inference: Any, decoder: Any, seed: int
) -> None:
    """Prints edits with vectors from the prior, and with those of other pairs."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(pairs.source), 8, replace=False)
    sources = pairs.source[rows]
    drawn = tv.UniformDirectionAndNorm(LATENT, MAX_NORM)().sample(8, seed=seed)
    own = inference([pairs.inserted[rows], pairs.deleted[rows]]).sample(seed=seed)
    print("\nprototype -> the sentence | its own edit | another's edit | a drawn edit")
    written = [
        corpus.write(decoder, sources, np.asarray(z))
        for z in (own, np.roll(own, 1, axis=0), drawn)
    ]
    for i, source in enumerate(sources):
        edits = " | ".join(lines[i] for lines in written)
        print(
            f"{corpus.text(source)} -> {corpus.text(pairs.target[rows[i]])} | {edits}"
        )


def histogram(kl: Any) -> Figure:
    """A histogram of the KL of all test pairs: a single bar."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    axes.hist(np.asarray(kl), bins=80, range=(0, 40))
    axes.set(xlabel="KL(q || p) of an edit, nats", ylabel="pairs")
    return figure


if __name__ == "__main__":
    main()
