import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.context.support.DefaultProfileValidationSupport;
import ca.uhn.fhir.parser.IParser;
import ca.uhn.fhir.validation.FhirValidator;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import org.hl7.fhir.common.hapi.validation.support.CommonCodeSystemsTerminologyService;
import org.hl7.fhir.common.hapi.validation.support.InMemoryTerminologyServerValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.PrePopulatedValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.SnapshotGeneratingValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.UnknownCodeSystemWarningValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.ValidationSupportChain;
import org.hl7.fhir.common.hapi.validation.validator.FhirInstanceValidator;
import org.hl7.fhir.r5.utils.validation.constants.BestPracticeWarningLevel;

/**
 * Validates resources as HL7 means it, with HAPI: one resource to a line of stdin, one OperationOutcome
 * to a line of stdout.
 *
 * <p>java Validate R5|R4 FROM...: also against the definitions in these files and folders.
 */
final class Validate {
  public static void main(String[] arguments) throws IOException {
    FhirContext context = arguments[0].equals("R4") ? FhirContext.forR4() : FhirContext.forR5();
    PrePopulatedValidationSupport ours = new PrePopulatedValidationSupport(context);
    for (int i = 1; i < arguments.length; i++) {
      load(Path.of(arguments[i]), context.newJsonParser(), ours);
    }
    FhirValidator validator = validator(context, ours);
    PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    BufferedReader lines =
        new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      var outcome = validator.validateWithResult(line).toOperationOutcome();
      out.println(context.newJsonParser().setPrettyPrint(false).encodeResourceToString(outcome));
    }
  }

  private static void load(Path from, IParser parser, PrePopulatedValidationSupport into)
      throws IOException {
    if (Files.isRegularFile(from)) {
      into.addResource(parser.parseResource(Files.readString(from)));
      return;
    }
    String wanted = "{StructureDefinition,CodeSystem,ValueSet}-*.json";
    try (DirectoryStream<Path> files = Files.newDirectoryStream(from, wanted)) {
      for (Path file : files) {
        into.addResource(parser.parseResource(Files.readString(file)));
      }
    }
  }

  private static FhirValidator validator(FhirContext context, PrePopulatedValidationSupport ours) {
    UnknownCodeSystemWarningValidationSupport unknown =
        new UnknownCodeSystemWarningValidationSupport(context);
    // Nobody may ship SNOMED CT, RadLex or DICOM's codes here; our value sets name those we use.
    unknown.setNonExistentCodeSystemSeverity(
        ca.uhn.fhir.context.support.IValidationSupport.IssueSeverity.WARNING);
    ValidationSupportChain chain =
        new ValidationSupportChain(
            ours,
            new DefaultProfileValidationSupport(context),
            new CommonCodeSystemsTerminologyService(context),
            new InMemoryTerminologyServerValidationSupport(context),
            new SnapshotGeneratingValidationSupport(context),
            unknown);
    FhirInstanceValidator instance = new FhirInstanceValidator(chain);
    instance.setAnyExtensionsAllowed(false);
    instance.setErrorForUnknownProfiles(true);
    instance.setBestPracticeWarningLevel(BestPracticeWarningLevel.Ignore);
    FhirValidator validator = context.newValidator();
    validator.registerValidatorModule(instance);
    return validator;
  }

  private Validate() {}
}
