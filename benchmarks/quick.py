"""How much ``pytest benchmarks`` measures: so little that all of it takes minutes on two cores, and shares of limits still mean something.

What is compiled and what files are made of is as in the commands; there are fewer bytes and rounds.
"""

from __future__ import annotations

ROUNDS = 3
#: Packed bytes of a recording, and of one that is a view of its file or that several threads share: opening must not decide.
BYTES, LARGE_BYTES = 12 << 20, 48 << 20
#: Frames of 192 x 192 pixels in chunks.
CHUNKS = 192
#: Lines of 64 frames of 256 x 256 for dask, and detector of a region of interest.
DASK_LINES, ROI_SIG = 4, (48, 48)
#: Files that are opened, and frames that are planned.
FILES, PLANNED = (1, 10, 100), (10**3, 10**5, 10**6)
#: Cases beside other libraries, which compile for each of them: one of each kind. Algorithms run by LiberTEM.
PEERS = ("mib r1", "mib r6", "mib r12", "mib r24", "quad r12", "mib u16", "raw >u2", "frms6", "seq u16 dark gain", "k2is")
ALGORITHMS = ("sum", "com", "1 mask")
#: Bytes of a stack that a GPU decodes.
DEVICE_BYTES = 64 << 20
