"""How fast a student is fine-tuned: kdcache beside the transformers Trainer, on the same rows, model and batch size.

    python -m benchmarks.training                                    BBC headlines, bert-tiny; runs anywhere
    python -m benchmarks.training --files train.parquet validation.parquet --text sentence --rows 3000
    python -m benchmarks.training --checkpoint all-MiniLM-L6-v2 --layers 3 --learning-rate 1e-4 ...
    python -m benchmarks.training --variants "kdcache, bfloat16" "Trainer, padded by batch, bfloat16" --rounds 14 ...

The Trainer runs as run_glue sets it (every row padded to 128 tokens), with batches padded to their longest row, and
with rows grouped by length as well; each in float32 and in bfloat16. Every run is a process of its own on one thread.
The variants take turns; each round begins with another one and has a seed of its own. Only training is timed, without
tokenising or loading. The Trainer's construction is not counted, kdcache's is. Then come whole trials (build the model,
train, score) on two cores: kdcache in two processes of one thread, the fastest Trainer in one of two threads. Last
comes KD from a cache (opening and joining it included) beside plain fine-tuning.
"""
