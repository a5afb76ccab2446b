Invariant: si-uid
Description: "A DICOM UID identifier is 'urn:oid:' followed by digits and dots, at most 64 characters"
Severity: #error
Expression: "value.matches('^urn:oid:[0-9]+([.][0-9]+)+$') and value.length() <= 72"

Invariant: si-uid-zeros
Description: "UID components have no leading zeros (some legacy equipment violates DICOM PS3.5 section 9)"
Severity: #warning
Expression: "value.matches('^urn:oid:[0-2]([.](0|[1-9][0-9]*))+$')"

Invariant: si-series-uid
Description: "Series Instance UID: digits and dots, at most 64 characters"
Severity: #error
Expression: "matches('^[0-9]+([.][0-9]+)+$') and length() <= 64"

Invariant: si-series-uid-zeros
Description: "UID components have no leading zeros"
Severity: #warning
Expression: "matches('^[0-2]([.](0|[1-9][0-9]*))+$')"

Invariant: si-label-unique
Description: "A segmentation label occurs at most once in one BodyStructure"
Severity: #error
Expression: "includedStructure.structure.coding.where(system.endsWith('/CodeSystem/structure')).code.isDistinct()"

Invariant: si-laterality
Description: "A left/right label carries the matching laterality"
Severity: #error
Expression: "includedStructure.all((structure.coding.where(system.endsWith('/CodeSystem/structure') and code.matches('(^|_)left(_|$)')).exists() implies laterality.coding.where(code = '7771000').exists()) and (structure.coding.where(system.endsWith('/CodeSystem/structure') and code.matches('(^|_)right(_|$)')).exists() implies laterality.coding.where(code = '24028007').exists()))"

Invariant: si-positive-volume
Description: "Volume is greater than zero"
Severity: #error
Expression: "extension.where(url = 'volume').value.ofType(Quantity).all(value > 0)"

Invariant: si-tx
Description: "In a transaction every entry has an absolute fullUrl and a request, and every urn:uuid reference resolves inside the Bundle"
Severity: #error
Expression: "entry.all((fullUrl.startsWith('urn:uuid:') or fullUrl.startsWith('http')) and request.exists() and resource.exists()) and entry.resource.descendants().where($this is Reference).reference.where(startsWith('urn:uuid:')).all($this in %resource.entry.fullUrl)"
