"""Averages of correlated samples, with error bars from blocks.

H. Flyvbjerg and H. G. Petersen, J. Chem. Phys. 91, 461 (1989).
"""

import numpy as np

_BLOCKS = 25


def mean(samples):
    """Return the mean and its standard error."""
    blocks = _blocks(samples)
    return float(np.mean(samples)), float(blocks.mean(axis=1).std(ddof=1) / np.sqrt(len(blocks)))


def fluctuation(samples):
    """Return the variance and its standard error, by leaving out one block after the other (jackknife)."""
    blocks = _blocks(samples)
    number = len(blocks)
    without = np.array([np.delete(blocks, i, axis=0).var() for i in range(number)])
    error = np.sqrt((number - 1) / number * ((without - without.mean()) ** 2).sum())
    return float(np.var(samples)), float(error)


def _blocks(samples):
    samples = np.asarray(samples)
    if len(samples) < 2 * _BLOCKS:
        raise ValueError(f"{len(samples)} samples are too few for error bars; {2 * _BLOCKS} are needed")
    length = len(samples) // _BLOCKS
    return samples[len(samples) - _BLOCKS * length :].reshape(_BLOCKS, length)
