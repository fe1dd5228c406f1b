# SPDX-License-Identifier: Apache-2.0
"""Jobs that the command line and the worker process run: volumes in, an output folder out."""
