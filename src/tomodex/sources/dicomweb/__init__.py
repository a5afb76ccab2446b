"""DICOMweb servers: QIDO-RS to find series, WADO-RS to retrieve them (DICOM PS3.18)."""
