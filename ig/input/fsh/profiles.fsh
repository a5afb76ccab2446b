Profile: TomodexPatient
Parent: Patient
Id: tomodex-patient
Title: "Pseudonymised Patient"
Description: "Subject of an indexed series. Carries a pseudonym only."
* insert Meta
* meta.security ^slicing.discriminator.type = #value
* meta.security ^slicing.discriminator.path = "$this"
* meta.security ^slicing.rules = #open
* meta.security contains pseudonymised 0..1 MS
* meta.security[pseudonymised] = $ObsValue#PSEUDED
* identifier 1..* MS
* identifier.system 1..1
* identifier.value 1..1
* active 0..1
* name 0..0
* telecom 0..0
* address 0..0
* photo 0..0
* contact 0..0
* communication 0..0
* maritalStatus 0..0
* multipleBirth[x] 0..0
* generalPractitioner 0..0

Profile: TomodexImagingStudy
Parent: ImagingStudy
Id: tomodex-imaging-study
Title: "Indexed ImagingStudy"
Description: "One DICOM study with its indexed series; each series points to the BodyStructure that lists what was found in it."
* insert Meta
* identifier 1..* MS
* identifier ^slicing.discriminator.type = #value
* identifier ^slicing.discriminator.path = "system"
* identifier ^slicing.rules = #open
* identifier contains studyInstanceUid 1..1 MS
* identifier[studyInstanceUid].system = "urn:dicom:uid" (exactly)
* identifier[studyInstanceUid].type 1..1
* identifier[studyInstanceUid].type = $DCM#110180
* identifier[studyInstanceUid].value 1..1
* identifier[studyInstanceUid] obeys si-uid and si-uid-zeros
* status MS
* modality 1..* MS
* modality from SeriesModalityVS (extensible)
* subject only Reference(TomodexPatient)
* subject MS
* started 0..1 MS
* series 1..* MS
* series.uid obeys si-series-uid and si-series-uid-zeros
* series.number MS
* series.modality from SeriesModalityVS (extensible)
* series.description MS
* series.numberOfInstances MS
* series.started 0..1 MS
* series.bodySite only CodeableReference(TomodexBodyStructure)
* series.bodySite MS
* series.bodySite.reference 1..1

Profile: TomodexBodyStructure
Parent: BodyStructure
Id: tomodex-body-structure
Title: "Anatomical annotations of one series"
Description: "All structures that the segmentation found in one series, one includedStructure for each."
* insert Meta
* insert AiAsserted
* obeys si-label-unique and si-laterality
* identifier 1..* MS
* identifier ^slicing.discriminator.type = #value
* identifier ^slicing.discriminator.path = "system"
* identifier ^slicing.rules = #open
* identifier contains seriesAnnotation 1..1 MS
* identifier[seriesAnnotation].system = $sid-annotation (exactly)
* identifier[seriesAnnotation].value 1..1
* active 1..1 MS
* morphology 0..0
* patient only Reference(TomodexPatient)
* patient MS
* includedStructure MS
* includedStructure.extension contains StructureMeasurement named measurement 0..1 MS
* includedStructure.structure MS
* includedStructure.structure.coding 1..* MS
* includedStructure.structure.coding ^slicing.discriminator.type = #value
* includedStructure.structure.coding ^slicing.discriminator.path = "system"
* includedStructure.structure.coding ^slicing.rules = #open
* includedStructure.structure.coding contains own 1..1 MS and sct 0..1 MS and radlex 0..1 MS
* includedStructure.structure.coding[own].system = $Structures (exactly)
* includedStructure.structure.coding[own].code 1..1
* includedStructure.structure.coding[own] from StructureVS (required)
* includedStructure.structure.coding[sct].system = $SCT (exactly)
* includedStructure.structure.coding[sct].code 1..1
* includedStructure.structure.coding[sct] from StructureSnomedVS (required)
* includedStructure.structure.coding[radlex].system = $RADLEX (exactly)
* includedStructure.structure.coding[radlex].code 1..1
* includedStructure.structure.coding[radlex] from StructureRadLexVS (required)
* includedStructure.laterality from LateralityVS (required)
* includedStructure.laterality MS

Extension: StructureMeasurement
Id: structure-measurement
Title: "Measurement of a segmented structure"
Description: "Volume and mean intensity of one segmented structure, and the faces of the image that cut it."
Context: BodyStructure.includedStructure
* insert Meta
* obeys si-positive-volume
* extension contains volume 1..1 and meanIntensity 0..1 and cut 0..6
* extension[volume].value[x] 1..1
* extension[volume].value[x] only Quantity
* extension[volume].valueQuantity
  * insert MeasuredQuantity
  * code = #mm3 (exactly)
* extension[meanIntensity].value[x] 1..1
* extension[meanIntensity].value[x] only Quantity
* extension[meanIntensity].valueQuantity
  * insert MeasuredQuantity
* extension[meanIntensity].valueQuantity from IntensityUnitVS (required)
* extension[cut].value[x] 1..1
* extension[cut].value[x] only code
* extension[cut].valueCode from ImageSideVS (required)
* extension[cut] ^short = "A face of the image that the structure touches: its volume is a lower bound"

Profile: TomodexDevice
Parent: Device
Id: tomodex-device
Title: "Indexer configuration"
Description: "One released combination of indexer software, libraries, model weights and run parameters. A changed combination is another Device."
* insert Meta
* identifier 1..* MS
* identifier ^slicing.discriminator.type = #value
* identifier ^slicing.discriminator.path = "system"
* identifier ^slicing.rules = #open
* identifier contains configuration 1..1 MS
* identifier[configuration].system = $sid-release (exactly)
* identifier[configuration].value 1..1
* displayName 1..1 MS
* status 1..1 MS
* category 1..* MS
* category ^slicing.discriminator.type = #value
* category ^slicing.discriminator.path = "$this"
* category ^slicing.rules = #open
* category contains software 1..1
* category[software] = $DeviceCategory#software
* version 1..* MS
* version.type 1..1
* version.type = $MDC#531975
* version.component 1..1
* version.component.system 1..1
* version.component.value 1..1
* property MS
* property.type from IndexerParameterVS (extensible)

Profile: TomodexProvenance
Parent: Provenance
Id: tomodex-provenance
Title: "Provenance of an indexing run"
Description: "Which indexer configuration produced the annotations of which series, and when."
* insert Meta
* target 1..* MS
* target only Reference(TomodexBodyStructure or TomodexImagingStudy)
* occurred[x] 1..1 MS
* occurred[x] only Period
* occurredPeriod.start 1..1
* occurredPeriod.end 1..1
* recorded 1..1 MS
* activity 1..1 MS
* activity from IndexingActivityVS (required)
* patient 1..1 MS
* patient only Reference(TomodexPatient)
* agent 1..1 MS
* agent.type 1..1
* agent.type = $AgentType#assembler
* agent.who only Reference(TomodexDevice)
* entity 1..1 MS
* entity.role = #source (exactly)
* entity.what only Reference(TomodexImagingStudy)
* entity.what.extension contains $targetElement named series 0..1 MS

Profile: TomodexTransaction
Parent: Bundle
Id: tomodex-transaction
Title: "Transaction of one indexed series"
Description: "Patient, ImagingStudy, BodyStructure, Device and Provenance of one series."
* insert Meta
* type = #transaction (exactly)
* obeys si-tx
* entry 2..5
* entry.fullUrl 1..1
* entry.resource 1..1
* entry.request 1..1

// optional, off by default: exceeds five resources per series
Profile: TomodexMeasurement
Parent: Observation
Id: tomodex-measurement
Title: "Measurement of one segmented structure"
Description: "Volume or mean attenuation of one structure as an Observation; element choices follow HL7 DICOM SR to FHIR (imaging-measurement)."
* insert Meta
* insert AiAsserted
* identifier 1..* MS
* status = #final (exactly)
* category 1..*
* code 1..1 MS
* code from MeasurementCodeVS (required)
* subject 1..1 MS
* subject only Reference(TomodexPatient)
* partOf 1..1 MS
* partOf only Reference(TomodexImagingStudy)
* issued 1..1 MS
* device 1..1 MS
* device only Reference(TomodexDevice)
* bodySite 1..1 MS
* bodySite.coding 1..*
* bodyStructure 0..0
* value[x] 1..1 MS
* value[x] only Quantity
* valueQuantity from MeasurementUnitVS (required)
* method MS
