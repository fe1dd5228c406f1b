# SPDX-License-Identifier: Apache-2.0
"""Files to volumes and back."""
