ValueSet: SeriesModalityVS
Id: series-modality
Title: "Modality of an indexed series"
Description: "Modalities that the indexer processes"
* insert Meta
* $DCM#CT "Computed Tomography"
* $DCM#MR "Magnetic Resonance"
* $DCM#PT "Positron emission tomography"
* $DCM#NM "Nuclear Medicine"

ValueSet: LateralityVS
Id: laterality
Title: "Laterality"
Description: "Left or right"
* insert Meta
* ^copyright = "This value set includes content from SNOMED CT, which is copyright of SNOMED International."
* $SCT#7771000 "Left"
* $SCT#24028007 "Right"

ValueSet: IntensityUnitVS
Id: intensity-unit
Title: "Unit of a mean intensity"
Description: "Hounsfield units for CT, arbitrary units for MR"
* insert Meta
* $UCUM#[hnsf'U] "Hounsfield unit"
* $UCUM#[arb'U] "arbitrary unit"

ValueSet: IndexingActivityVS
Id: indexing-activity
Title: "Indexing activity"
Description: "First indexing or re-indexing"
* insert Meta
* $DataOperation#CREATE "create"
* $DataOperation#UPDATE "revise"

CodeSystem: IndexerParameter
Id: indexer-parameter
Title: "Indexer parameter"
Description: "Settings that are part of an indexer configuration; each segmenter has its own"
* insert Meta
* ^caseSensitive = true
* ^content = #fragment
* #configuration "Configuration" "Name that the site gave this way of indexing"
* #model "Model" "Task and resolution of the model"
* #mode "Mode" "exact, fast or crop"
* #step "Step" "From tile to tile, as a share of the tile"
* #precision "Precision" "Numbers that the network computes with"
* #device "Device" "What the network runs on"
* #runtime "Runtime" "What runs the network"
* #runtime_version "Runtime version" "Its version"
* #resampling "Resampling" "How the image was brought onto the model's grid"
* #spacing_mm "Spacing" "Of the model's grid"

CodeSystem: ImageSide
Id: image-side
Title: "Face of an image"
Description: "A face of an image volume, named by the patient direction that it is nearest to"
* insert Meta
* ^caseSensitive = true
* ^content = #complete
* #left "Left"
* #right "Right"
* #anterior "Anterior"
* #posterior "Posterior"
* #inferior "Inferior"
* #superior "Superior"

ValueSet: ImageSideVS
Id: image-side
Title: "Face of an image"
Description: "The six faces of an image volume"
* insert Meta
* include codes from system ImageSide

ValueSet: IndexerParameterVS
Id: indexer-parameter
Title: "Indexer parameter"
Description: "Run parameters"
* insert Meta
* include codes from system IndexerParameter

ValueSet: MeasurementCodeVS
Id: measurement-code
Title: "Measurement codes"
Description: "Volume (DICOM CID 7466 / TID 1419) and attenuation coefficient (DCM)"
* insert Meta
* $SCT#118565006 "Volume"
* $DCM#112031 "Attenuation Coefficient"

ValueSet: MeasurementUnitVS
Id: measurement-unit
Title: "Measurement units"
Description: "Units of measurements"
* insert Meta
* $UCUM#mm3 "cubic millimeter"
* $UCUM#[hnsf'U] "Hounsfield unit"
* $UCUM#[arb'U] "arbitrary unit"
