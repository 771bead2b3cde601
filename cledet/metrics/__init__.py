"""Detection metrics in numpy: matching, AP, TIDE, curves, calibration and bootstrap. No torch."""
