"""Real servers for the tests, each started on a free port of the loopback interface.

Fixtures live in one module for each server; they are named here so that pytest finds them.
"""

from __future__ import annotations

from tests.servers.browser import browser as browser
from tests.servers.browser import guarded as guarded
from tests.servers.browser import phantom_data as phantom_data
from tests.servers.browser import site as site
from tests.servers.dcmqrscp import dcmqrscp as dcmqrscp
from tests.servers.fhir import _fhir_server as _fhir_server
from tests.servers.fhir import fhir_server as fhir_server
from tests.servers.fhir import r4_validator as r4_validator
from tests.servers.fhir import validator as validator
from tests.servers.kafka import broker as broker
from tests.servers.kafka import secured as secured
from tests.servers.opensearch import elasticsearch_server as elasticsearch_server
from tests.servers.opensearch import newer_search_server as newer_search_server
from tests.servers.opensearch import older_elasticsearch_server as older_elasticsearch_server
from tests.servers.opensearch import secured_search_server as secured_search_server
from tests.servers.orthanc import orthanc as orthanc
from tests.servers.s3 import store as store
