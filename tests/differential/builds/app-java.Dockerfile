FROM fat AS build
WORKDIR /src
COPY pom.xml .
COPY src ./src
RUN mvn -o -q -B -Dmaven.repo.local=/usr/share/maven-repo -DskipTests package

FROM base
COPY --from=build /src/target/greeting-*.jar /opt/application.jar
COPY --from=build /src/target/classes /opt/classes
ENV JAVA_TOOL_OPTIONS="-XX:MaxRAMPercentage=75"
ENTRYPOINT ["java", "-jar", "/opt/application.jar"]
