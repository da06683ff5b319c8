"""Tools for makers of this project; users need none of them. Run from a clone, each has `--help`.

python -m tools.benchmark   the same texts through this engine, dense models and other runtimes, by turns
python -m tools.load        throughput and waiting times of a server
python -m tools.aot         programs of a config compiled for TPU slices, without a TPU
python -m tools.row         the record of a recipe at all its budgets, beside its dense model, for docs/results.md
python -m tools.embedders   embedders and their students: quality and clock
python -m tools.rerankers   cross-encoders and their students
python -m tools.serving     a server beside its engine
python -m tools.processes   time and memory from a cold start
python -m tools.guarantee   how often a guaranteed budget holds
python -m tools.unlabelled  texts without labels, from the data at hand
python -m tools.tables      the tables of docs/ from the records in results/
python -m tools.charts      the charts of docs/
"""
