"""Annotated series as documents of the standards: pure functions, nothing is sent or written.

fhir/   HL7 FHIR R5 resources and transactions
"""
