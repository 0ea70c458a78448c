"""Head CT and its labels: geometry, reading, writing, DICOM, plausibility."""
