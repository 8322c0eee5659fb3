"""Training an editor of a model that does not fit one device: weights, gradients and moments sharded over processes.

DeepSpeed's ZeRO stage 3 (Rajbhandari et al. 2020) through Accelerate. Every process of a trial runs `run_sharded_cell`:
it trains on its share of each step's edits and computes the same table as the others.
"""

from methods.editing.sharded.config import check_shares, complete, ways_to_train

__all__ = ["check_shares", "complete", "ways_to_train"]
