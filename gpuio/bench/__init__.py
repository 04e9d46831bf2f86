"""``gpuio bench``: what this machine can do at best, what gpuio makes of it, and which stage holds it back.

**Method.** Every stage runs alone and the whole stream runs as users have it, beside the limits of the machine, in one
run. All candidates take turns, round after round, so that a machine that speeds up or slows down does so for all of them;
the first round is not counted. Figures are medians with their quartiles. 1 GB is 10^9 bytes; rates count packed bytes,
those that pixels lie in. Wall time says how long a user waits; CPU seconds of all threads say what it costs, and are the
better figure on a machine that is shared.

=============  ================================================================
`data`         a scan of random counts, where none is given
`cache`        files out of the page cache or in it, and whether they really are
`timing`       interleaved rounds
`limits`       what the machine can do, without gpuio
`stages`       each stage of the stream alone, and all of it
`peers`        the same file through other libraries
`sweep`        the same stream with other sizes, threads and transports
`machine`      what it all ran on
`report`       all of it as plain values, as ``schema.json`` describes them
`text`, `html` the report for people
=============  ================================================================
"""
