"""`d2it` whose calibrations take 0.3 s for every 8 images: time to be killed in."""

import functools
import sys
import time

from d2it.cli import main
from d2it.grains import calibrate

quick, calibrate.UNIT = calibrate.count_regions, 8


@functools.wraps(quick)
def slow(*of):
    time.sleep(0.3)
    return quick(*of)


calibrate.count_regions = slow
sys.exit(main(sys.argv[1:]))
