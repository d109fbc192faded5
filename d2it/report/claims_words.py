"""What stands below the tables of the claims' page."""

from d2it.report.claims_lines import APART
from d2it.report.claims_lines import SINGLE as ONE_EACH

IN_SHORT = (
    "In brackets: Student's {level:g} % interval of the mean difference over training seeds. "
    "*Holds*: all of it is on the paper's side, or, where two are said to be equal, within the "
    "share that is named. *Does not hold*: all of it is on the other. *Not decidable*: it has room "
    "for either answer. *Incomplete*: some pair was not run. *So far*: some of the seeds that the "
    f"scale asks for have not been run. {APART}: the maps of the two sides are not drawn by one "
    "grain network, and of each grain network there is one training. Intervals leave out the "
    "scatter of DVAE, grain network and sampling noise, except where DVAEs are compared. Each "
    "verdict is of its comparison alone; comparisons share runs. {together}"
)
TOGETHER = "Tested all at once, by Holm's correction, these differences stand: {}."
SINGLE = (
    f"{ONE_EACH}: one training of each; in brackets is {{gap:g}} % either way, the scatter of "
    "FID-50K between training seeds by The FID Lottery (arXiv 2606.20536), below which a gap is "
    "inconclusive. Smaller samples of one training decide nothing."
)
WORKED = (
    "At equal work: the dearer of the two networks is taken at the moment when its training had "
    "taken as many multiplications as the other's in all, on the line between measured moments; "
    "the grain network, one for all sizes, is not counted. Work is read in three ways: *dense*, as "
    "it was computed, every window of RefineNet; *live windows*, those with a fine region, as "
    "`skip_windows` computes them to the same numbers, by their share in the photographs' maps "
    "(windows.json); *fine only*, the tokens of fine regions alone, the least there can be. "
    "*Equal*: both do the same work anyway. *Not measured*: the dearer one was not evaluated along "
    "the way."
)
NOTHING_FINE = (
    "At ratio 0 no region is fine: RefineNet changes nothing and is never trained, so that network "
    "is ten layers deep beside twelve, whatever was multiplied; dense, its work is called equal "
    "only because its idle layers are counted."
)
RUN_SAYS = (
    "Differences are paired: both methods of a seed see the same images in the same order. What "
    "differs between seeds is the training of the content network or DiT: DVAE, grain network and"
    " the noise of maps and samples are the same for all. Nothing is corrected for seeds that were "
    "added after a look at the others. Verdicts are at equal steps, or at the share of them that "
    "is named. `GMACs`, first and second: of one pass, dense (fine only); the grain network's are "
    "not in it. `nearest`, first and second: the distance of samples from the training images over "
    "that of held-out ones, here other crops of the same photographs; far below 1 is memorisation. "
    "`chance`: how often two maps of these shares agree that know nothing of each other."
)
BESIDE = (
    "These decide no claim; *better* and *worse* are said of the first. `epsilon_error` is the "
    "error of the predicted noise on held-out crops, the same noise and times for all; `_0` and "
    "`_1` are over coarse and over fine regions. It compares networks on the same latents alone, "
    "of one DVAE and one routing: where a D²iT has one code and one noise for a coarse region, a "
    "DiT has four, so their errors are of different tasks. With and without the dynamic grain loss "
    "the sum that is minimised weighs the grains otherwise: there each grain stands for itself. "
    "`obedience` is the share of regions that came out as the map asked; only C38 rests on it. "
    "`psnr` and `lpips` are of reconstructions of held-out crops."
)
COUNTED = (
    "The networks are those of `d2it models`, at 256 px with ImageNet's classes; half of the "
    "regions are fine. GMACs are of one pass. The claim holds if all of its comparisons hold by "
    "one reading of the count."
)
