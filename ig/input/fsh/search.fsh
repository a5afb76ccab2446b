Instance: BodyStructureVolume
InstanceOf: SearchParameter
Usage: #definition
* id = "bodystructure-volume"
* url = "https://fhir.example.org/tomodex/SearchParameter/bodystructure-volume"
* name = "BodyStructureVolume"
* status = #active
* description = "Volume of a segmented structure"
* code = #volume
* base = #BodyStructure
* type = #quantity
* expression = "BodyStructure.includedStructure.extension.where(url='https://fhir.example.org/tomodex/StructureDefinition/structure-measurement').extension.where(url='volume').value.ofType(Quantity)"
* processingMode = #normal
* multipleOr = true
* multipleAnd = true

Instance: BodyStructureStructureVolume
InstanceOf: SearchParameter
Usage: #definition
* id = "bodystructure-structure-volume"
* url = "https://fhir.example.org/tomodex/SearchParameter/bodystructure-structure-volume"
* name = "BodyStructureStructureVolume"
* status = #active
* description = "Structure together with its volume, e.g. structure-volume=http://snomed.info/sct|78961009$gt300000"
* code = #structure-volume
* base = #BodyStructure
* type = #composite
* expression = "BodyStructure.includedStructure"
* processingMode = #normal
* multipleOr = true
* multipleAnd = true
* component[0].definition = "http://hl7.org/fhir/SearchParameter/BodyStructure-includedstructure"
* component[0].expression = "structure"
* component[1].definition = "https://fhir.example.org/tomodex/SearchParameter/bodystructure-volume"
* component[1].expression = "extension.where(url='https://fhir.example.org/tomodex/StructureDefinition/structure-measurement').extension.where(url='volume').value.ofType(Quantity)"
