Alias: $SCT = http://snomed.info/sct
Alias: $RADLEX = http://radlex.org
Alias: $DCM = http://dicom.nema.org/resources/ontology/DCM
Alias: $UCUM = http://unitsofmeasure.org
Alias: $MDC = urn:iso:std:iso:11073:10101
Alias: $V2-0203 = http://terminology.hl7.org/CodeSystem/v2-0203
Alias: $ObsValue = http://terminology.hl7.org/CodeSystem/v3-ObservationValue
Alias: $DataOperation = http://terminology.hl7.org/CodeSystem/v3-DataOperation
Alias: $AgentType = http://terminology.hl7.org/CodeSystem/provenance-participant-type
Alias: $DeviceCategory = http://hl7.org/fhir/device-category
Alias: $targetElement = http://hl7.org/fhir/StructureDefinition/targetElement
// canonical-dependent; rendered with sushi-config.yaml
Alias: $Structures = https://fhir.example.org/tomodex/CodeSystem/structure
Alias: $Param = https://fhir.example.org/tomodex/CodeSystem/indexer-parameter
Alias: $sid-pseudonym = https://fhir.example.org/tomodex/sid/patient-pseudonym
Alias: $sid-annotation = https://fhir.example.org/tomodex/sid/series-annotation
Alias: $sid-release = https://fhir.example.org/tomodex/sid/indexer-configuration
Alias: $sid-component = https://fhir.example.org/tomodex/sid/software-component
