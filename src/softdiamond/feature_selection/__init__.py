r"""Networks that choose their columns: scikit-learn estimators with a group soft diamond on the first layer.

`SoftDiamondNetRegressor` and `SoftDiamondNetClassifier` train a multilayer perceptron in which all weights that one column of
the table feeds are one group with one norm (`softdiamond.penalties.groups`). A thick-tailed prior on the norms leaves those of the true
columns large and takes the rest to nothing. A fit

1. holds out rows for validation (or folds of them, ``cv``), and standardizes inputs and targets on the others;
2. follows a path of strengths, all as one stack of networks (``path``), in rounds;
3. cuts each network at one of the widest gaps of its log norms, the fewest columns whose validation error is within 1 % of the
   best cut's; and of the strengths whose cut network is within 1 % of the lowest error takes the one with the fewest columns (or
   within 0.0005 of the standardized targets' variance, or nats: without noise the error has no floor);
4. with ``refit`` trains that network on with the chosen columns alone, without the penalty: if that lowers the validation error
   (of folds the mean), it is done again on all rows.

What is not chosen has weights of exactly 0 or no weights, so that it cannot touch a prediction. A fit that fails or is
interrupted leaves the estimator as it was.

**Why a gap, and why validated.** A soft diamond is smooth at 0, so its steps leave small norms, not zeros; those are the noise of
Adam, all of one size, well below the rest. Where there is no gap (a dense truth) the widest one is due to chance, and the validation
error refuses it. (A strength that takes everything has no gap either, and all cuts of it are as bad: that it keeps many columns
means nothing.)

**Measured** on Friedman's first function, 5 of 300 uniform columns, 500 rows to train (``python studies/features.py --design
friedman-500-300 --draws 10``): the soft diamond's own network has 0.73 times the test error of group lasso's (95 % interval 0.70 to
0.77), which shrinks what it keeps; trained on with the same columns and no penalty group lasso's is 3 % ahead. Both gain from the
rounds. ``docs/results/features`` has more designs and methods, and where the alternatives win. The law of d weights and the law of one
weight on the norm of d do not differ there; the former is the default, because it is the prior that it says it is.
"""

from softdiamond._extras import require

require("sklearn", "scikit-learn")
require("torch", "torch")

from softdiamond.feature_selection._classifier import SoftDiamondNetClassifier
from softdiamond.feature_selection._regressor import SoftDiamondNetRegressor

__all__ = ["SoftDiamondNetClassifier", "SoftDiamondNetRegressor"]
