# SPDX-License-Identifier: Apache-2.0
"""From volumes to a prediction: windows, stochastic samples, memory planning and the localiser cascade."""
