"""What the chapters share and no lesson is about: plumbing.

- ``results``: save and compare what was measured; ``baselines``: what MICRA-Net is compared with.
- ``machine``: the line of versions; ``workdir``: a folder that outlives a session.
- ``training``: networks that several chapters use are trained once: ``digits`` of the digits,
  ``subjects`` of the datasets that the baselines compare; ``folds``: fine-tune on a few images.
- ``verdict``: thresholds from validation crops, scores of test crops and of detections.
- ``model_card``: publish the networks of a result, with a description.
- ``command``: the command ``micranet-book``.
"""
