# The start of fense-admin.pyz. Any Python 3 can read this file, so that an old one gets a sentence.
import sys

if sys.version_info < (3, 10):
    old = "Python %d.%d is too old: fense-admin needs 3.10 or later" % sys.version_info[:2]
    sys.exit(old + " (brew install python, or uv python install)")

from fense_admin.cli import main

sys.exit(main())
